import { stageFields, valueAt } from '../stage/fields.ts'
import type { Finding, StageSide } from '../stage/origin.ts'
import { findingsOf, type Rule } from './rule.ts'

const ofHardware: ReadonlySet<string> = new Set(['memory and parallelism', 'initial weights', 'bookkeeping'])

/** Settings that decide what is learnt, and so should not follow the hardware; paths and batches may. */
function learntSettings(): string[] {
  const fields = [...stageFields().values()].filter(
    ({ path, group, kind }) => !ofHardware.has(group) && kind !== 'path' && !path.startsWith('batch.'),
  )
  return [...fields.map(({ path }) => path), 'memory.vaePrecision']
}

const twinRule: Rule = {
  name: 'twins-differ',
  severity: 'warn',
  hint: 'make them equal, or say why training differs with the hardware',
  source: 'upstream keeps one script per kind of hardware for one stage',
  check: ({ side, parent }) =>
    parent === undefined
      ? []
      : learntSettings()
          .filter((path) => JSON.stringify(valueAt(side.stage, path)) !== JSON.stringify(valueAt(parent.stage, path)))
          .map((path) => ({
            message: `${path}: ${JSON.stringify(valueAt(side.stage, path))} here, ${JSON.stringify(valueAt(parent.stage, path))} in ${parent.label}`,
            paths: [path] as const,
          })),
}

const hardwareInPath = /(^|[/_.-])([gn]pu)(?=[/_.-])/g

/** Whether two scripts are one stage written for two kinds of hardware: the same file name and folder but for `gpu` and `npu`. */
export function areTwins(a: StageSide, b: StageSide): boolean {
  const kinds = [a, b].map(({ label }) => [...label.matchAll(hardwareInPath)].map(([, , kind]) => kind).at(-1))
  const [one, other] = [a, b].map(({ label }) => label.replace(hardwareInPath, '$1').split('/').slice(-2).join('/'))
  return kinds[0] !== undefined && kinds[1] !== undefined && kinds[0] !== kinds[1] && one === other
}

/** What differs between twins beyond hardware and paths. */
export function twinFindings(side: StageSide, twin: StageSide): Finding[] {
  return findingsOf(twinRule, { side, parent: twin })
}

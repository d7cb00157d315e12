import { UserError } from '../domain/errors.ts'
import type { RunState } from '../domain/run/state.ts'
import type { Run } from '../store/runs.ts'
import type { Ask } from './control.ts'

/**
 * The change that gives one group of a run's parameters a learning rate: `text` is a rate, or `*0.5` for a factor on the one it has.
 * Other groups keep theirs. Raises UserError GROUP_RATE for a text that is neither.
 */
export function groupRate(run: Run, state: RunState, group: string, text: string): Extract<Ask, { name: 'set' }> {
  const now = (path: string): unknown => state.changes.findLast((change) => change.path === path)?.effective
  const ratios = (now('learningRateRatios') ?? run.stage.learningRateRatios) as Readonly<Record<string, number>>
  const rate = (now('learningRate') ?? run.stage.learningRate) as number
  const isFactor = text.startsWith('*')
  const number = text.replace(/^\*/, '').trim() === '' ? Number.NaN : Number(text.replace(/^\*/, ''))
  if (!(Number.isFinite(number) && number >= 0)) {
    throw new UserError('GROUP_RATE', `learningRate of ${group}: expected a rate or a factor, got ${text}`, {
      hint: 'for example learningRate=5e-6 or learningRate=*0.5',
    })
  }
  const ratio = isFactor ? (ratios[group] ?? 1) * number : number / rate
  return { name: 'set', path: 'learningRateRatios', value: { ...ratios, [group]: ratio } }
}

import { type AlertsFile, alertsFile } from '../domain/alerts.ts'
import { shown } from './expectation.ts'
import { placeInside, plainValue } from './located.ts'
import { errorOf, Problems } from './problems.ts'
import { readYaml } from './yaml.ts'

/** Reads an alerts file from its YAML. Raises UserError CONFIG_… with every place that is wrong. */
export function readAlertsFile(bytes: Uint8Array | string, file: string): AlertsFile {
  const node = readYaml(bytes, file)
  const value = plainValue(node)
  const result = alertsFile.safeParse(value)
  if (result.success) {
    const names = result.data.rules.map(({ name }) => name)
    const twice = names.findIndex((name, at) => names.indexOf(name) !== at)
    if (twice < 0) return result.data
    const text = `expected a name of its own for each rule, got ${names[twice]} twice`
    throw errorOf([{ code: 'CONFIG_INVALID', place: placeInside(node, ['rules', twice, 'name']), path: `rules[${twice}].name`, text }])
  }
  const problems = new Problems()
  for (const issue of result.error.issues) {
    const inside = issue.path.reduce<unknown>(
      (at, step) => (at !== null && typeof at === 'object' ? Reflect.get(at, step) : undefined),
      value,
    )
    const isUnknown = issue.code === 'unrecognized_keys'
    const text = isUnknown ? `expected no key ${issue.keys.join(', ')}, got one` : `${issue.message}, got ${shown(inside)}`
    const place = placeInside(node, isUnknown ? [...issue.path, issue.keys[0] ?? ''] : issue.path)
    problems.add({
      code: isUnknown ? 'CONFIG_UNKNOWN_KEY' : 'CONFIG_INVALID',
      place,
      path: issue.path.map(String).join('.'),
      text,
      hint: 'docs/alerts.md',
    })
  }
  problems.refuse()
  throw new Error('an alerts file that is wrong was not refused')
}

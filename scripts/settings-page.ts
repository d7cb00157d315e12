import { type StageField, stageFields } from '../src/domain/stage/fields.ts'
import { groups } from '../src/domain/stage/metadata.ts'
import { valueText } from '../src/domain/stage/value-text.ts'

/** `docs/settings.md`: every field of a stage by group. */
export function settingsPage(): string {
  const fields = [...stageFields().values()]
  const sections = groups.flatMap((group) =>
    section(
      group,
      fields.filter((field) => field.group === group),
    ),
  )
  return [head, ...sections, ''].join('\n')
}

const head = `# Settings of a stage

Generated from \`src/domain/stage/schema.ts\` by \`npm run generate\`; do not edit.

*Impact* is what changing a setting costs a run: \`none\`, \`live\` (takes effect while it trains), \`restart\` (the trainer
starts again from its checkpoint), \`resets-optimizer\` (moments are lost), \`stale-cache\` (cached latents or text states no
longer fit), \`breaks-weights\` (the weights no longer fit the model).`

function section(group: string, fields: readonly StageField[]): string[] {
  const rows = fields.map(({ path, meaning, unit, impact, why, upstream, default: fallback }) => {
    const names = upstream?.length ? ` Upstream: ${upstream.map((name) => `\`${name}\``).join(', ')}.` : ''
    const reason = why ? ` *${sentence(why)}*` : ''
    const value = fallback === undefined ? 'required' : `\`${valueText(fallback)}\``
    return `| \`${path}\` | ${value} | ${unit ?? ''} | ${impact} | ${cell(sentence(meaning) + reason + names)} |`
  })
  return [
    '',
    `## ${group.charAt(0).toUpperCase()}${group.slice(1)}`,
    '',
    '| setting | default | unit | impact | meaning |',
    '| --- | --- | --- | --- | --- |',
    ...rows,
  ]
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}

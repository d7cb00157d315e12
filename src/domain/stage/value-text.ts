/** A value as a person would write it in a recipe: `1e-4`, `[all, -norms]`, `null`; `unset` for no value at all. */
export function valueText(value: unknown): string {
  if (value === undefined) return 'unset'
  if (typeof value === 'string') return textOf(value)
  if (typeof value === 'number') return numberText(value)
  if (Array.isArray(value)) return `[${value.map(valueText).join(', ')}]`
  if (value === null || typeof value !== 'object') return String(value)
  return `{${Object.entries(value)
    .map(([name, inner]) => `${textOf(name)}: ${valueText(inner)}`)
    .join(', ')}}`
}

/** Quoted where bare text could be taken for something else, or holds what a terminal would obey. */
function textOf(text: string): string {
  const mistakable = /^(true|false|null|~|unset|[-+.]?\d.*)$/i.test(text) && !/^\d+[a-z%x]/i.test(text)
  return /^[\p{L}\p{N}_./:@#%+*~$-]+$/u.test(text) && !mistakable
    ? text
    : JSON.stringify(text)
        .replaceAll('\u007f', '\\u007f')
        .replace(/[\u0080-\u009f]/g, '\ufffd')
}

/** Small numbers with an exponent (`2e-5`), others in full. */
function numberText(value: number): string {
  const size = Math.abs(value)
  if (size === 0 || (size >= 1e-2 && size < 1e15) || !Number.isFinite(value)) return String(value)
  return value.toExponential().replace('e+', 'e')
}

/** Thousands separated, at most four significant digits behind the point: `2,771,980`, `0.3333`. */
export function quantityText(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  if (Math.abs(value) >= 1000) return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',')
  return numberText(Number(value.toPrecision(4)))
}

/** A unit beside a number: words take a plural, symbols do not; `frame/s` becomes `frames/s`. */
export function unitText(unit: string | undefined, value: unknown): string {
  if (unit === undefined || typeof value === 'string') return unit === undefined ? '' : plural(unit)
  return value === 1 ? unit : plural(unit)
}

const words: ReadonlySet<string> = new Set(['step', 'clip', 'frame', 'token', 'cell', 'parameter'])

function plural(unit: string): string {
  const [first = '', ...per] = unit.split('/')
  return [words.has(first) ? `${first}s` : first, ...per].join('/')
}

/** `×0.5`; three significant digits are enough to judge a change by, five where it is small. */
export function ratioText(ratio: number): string {
  return Math.abs(ratio - 1) < 0.01 ? `×${Number(ratio.toPrecision(5))}` : `×${quantityText(Number(ratio.toPrecision(3)))}`
}

/** `+4 frames`, `−1`. */
export function deltaText(delta: number, unit: string | undefined): string {
  const amount = `${delta < 0 ? '−' : '+'}${numberText(Math.abs(delta))}`
  return unit ? `${amount} ${unitText(unit, Math.abs(delta))}` : amount
}

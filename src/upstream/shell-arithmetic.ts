import type { ArithmeticExpression, ArithmeticWord } from 'unbash'

const binary: Readonly<Record<string, (a: number, b: number) => number>> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '/': (a, b) => Math.trunc(a / b),
  '%': (a, b) => a % b,
  '**': (a, b) => a ** b,
  '<<': (a, b) => a << b,
  '>>': (a, b) => a >> b,
  '<': (a, b) => Number(a < b),
  '>': (a, b) => Number(a > b),
  '<=': (a, b) => Number(a <= b),
  '>=': (a, b) => Number(a >= b),
  '==': (a, b) => Number(a === b),
  '!=': (a, b) => Number(a !== b),
  '&&': (a, b) => Number(a !== 0 && b !== 0),
  '||': (a, b) => Number(a !== 0 || b !== 0),
}

/** The whole number of a bash arithmetic expression; undefined where a variable is unset or the form is not known. */
export function arithmeticValue(
  expression: ArithmeticExpression | undefined,
  variable: (name: string) => string | undefined,
): number | undefined {
  switch (expression?.type) {
    case 'ArithmeticWord':
      return partValue(expression, variable) ?? wordValue(expression.value, variable)
    case 'ArithmeticGroup':
      return arithmeticValue(expression.expression, variable)
    case 'ArithmeticUnary': {
      const value = arithmeticValue(expression.operand, variable)
      if (value === undefined) return undefined
      return expression.operator === '-' ? -value : expression.operator === '!' ? Number(value === 0) : value
    }
    case 'ArithmeticBinary': {
      const [left, right] = [arithmeticValue(expression.left, variable), arithmeticValue(expression.right, variable)]
      const value = left === undefined || right === undefined ? undefined : binary[expression.operator]?.(left, right)
      return value !== undefined && Number.isFinite(value) ? value : undefined
    }
    case 'ArithmeticTernary': {
      const test = arithmeticValue(expression.test, variable)
      return test === undefined ? undefined : arithmeticValue(test === 0 ? expression.alternate : expression.consequent, variable)
    }
    default:
      return undefined
  }
}

/** A nested expansion: `$((…))`, or a variable with a default. */
function partValue({ parts }: ArithmeticWord, variable: (name: string) => string | undefined): number | undefined {
  const [part, ...more] = parts ?? []
  if (part === undefined || more.length > 0) return undefined
  if (part.type === 'ArithmeticExpansion') return arithmeticValue(part.expression, variable)
  if (part.type !== 'ParameterExpansion' || part.operation?.type !== 'Default' || !part.operation.operator.endsWith('-')) return undefined
  const value = variable(part.parameter)
  return wordValue(value === undefined || value === '' ? part.operation.operand.value : value, variable)
}

function wordValue(word: string, variable: (name: string) => string | undefined): number | undefined {
  const [, name] = /^\$?\{?([A-Za-z_]\w*)\}?$/.exec(word) ?? []
  const text = (name === undefined ? word : variable(name))?.trim() ?? ''
  if (/^0[0-7]+$/.test(text)) return Number.parseInt(text, 8)
  return /^(?:-?\d+|0x[0-9a-f]+)$/i.test(text) ? Number(text) : undefined
}

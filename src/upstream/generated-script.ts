import type { FlagValue } from './trainer.ts'

/** A launch as a survey of upstream recorded it, without the script's text. */
export interface LaunchRecord {
  readonly trainer: string
  readonly launcher: string
  readonly launcherOptions: Readonly<Record<string, FlagValue>>
  readonly environment: Readonly<Record<string, FlagValue>>
  readonly arguments: Readonly<Record<string, FlagValue>>
}

const commands: Readonly<Record<string, string>> = {
  accelerate: 'accelerate launch',
  torchrun: 'torchrun',
  python: 'python',
  deepspeed: 'deepspeed',
}

/** A bash script that launches what a record says. Values may hold `$VARIABLES`, which stay so. */
export function generatedScript({ trainer, launcher, launcherOptions, environment, arguments: values }: LaunchRecord): string {
  const exports = Object.entries(environment).map(([name, value]) => `export ${name}=${word(String(value))}`)
  const options = Object.entries(launcherOptions).map(([name, value]) => option(name, value))
  const flags = Object.entries(values).map(([name, value]) => option(name, value))
  return `${[...exports, '', [commands[launcher] ?? 'python', ...options, trainer, ...flags].join(' \\\n    ')].join('\n')}\n`
}

function option(name: string, value: FlagValue): string {
  if (value === true) return `--${name}`
  if (Array.isArray(value)) return `--${name} ${value.map((each) => word(String(each))).join(' ')}`
  return `--${name} ${word(value === null ? '' : String(value))}`
}

function word(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `"${text.replace(/["\\`]/g, '\\$&')}"`
}

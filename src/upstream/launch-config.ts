import { parse as parseYaml } from 'yaml'

/** What the launcher decides about a run. */
export interface LaunchSettings {
  readonly machines: number | undefined
  /** Ranks over all machines. */
  readonly processes: number | undefined
  readonly mixedPrecision: string | undefined
  /** Whether the file is one for several devices: `MULTI_GPU`, `DEEPSPEED`, not `NO`. */
  readonly isForMany: boolean
  readonly zeroStage: number | undefined
  /** Threshold of DeepSpeed's own clipping; null: DeepSpeed is used and does not clip; undefined: not known. */
  readonly deepspeedClip: number | null | undefined
  /** Files that were looked for and not found. */
  readonly missing: readonly string[]
}

export type ReadText = (path: string) => string | undefined

interface AccelerateFile {
  num_machines?: number
  num_processes?: number
  mixed_precision?: string
  distributed_type?: string
  deepspeed_config?: { deepspeed_config_file?: string; zero_stage?: number; gradient_clipping?: number }
}

/** What an accelerate YAML and the DeepSpeed JSON it names say. A file that cannot be read or parsed counts as missing. */
export function launchSettings(configFile: string | undefined, deepspeedFile: string | undefined, read: ReadText): LaunchSettings {
  const missing: string[] = []
  const config = configFile === undefined ? {} : parsed(configFile, read, missing, parseYaml)
  const { deepspeed_config: deepspeed } = config as AccelerateFile
  const named = deepspeedFile ?? deepspeed?.deepspeed_config_file
  const json = named === undefined ? undefined : parsed(named, read, missing, JSON.parse)
  const zero = json?.zero_optimization as { stage?: unknown } | undefined
  const clip = json === undefined ? deepspeed?.gradient_clipping : (json.gradient_clipping ?? null)
  return {
    machines: whole((config as AccelerateFile).num_machines),
    processes: whole((config as AccelerateFile).num_processes),
    mixedPrecision: (config as AccelerateFile).mixed_precision,
    isForMany: /^(?:MULTI_|DEEPSPEED|FSDP)/.test(String((config as AccelerateFile).distributed_type)),
    zeroStage: whole(zero?.stage ?? deepspeed?.zero_stage),
    deepspeedClip: missing.includes(named ?? '') ? undefined : typeof clip === 'number' || clip === null ? clip : undefined,
    missing,
  }
}

function parsed(file: string, read: ReadText, missing: string[], parse: (text: string) => unknown): Record<string, unknown> {
  const text = read(file)
  const value = text === undefined ? undefined : attempt(() => parse(text))
  if (value !== null && typeof value === 'object') return value as Record<string, unknown>
  missing.push(file)
  return {}
}

function attempt(make: () => unknown): unknown {
  try {
    return make()
  } catch {
    return undefined
  }
}

function whole(value: unknown): number | undefined {
  const number = typeof value === 'string' ? Number(value) : value
  return typeof number === 'number' && Number.isInteger(number) && number >= 0 ? number : undefined
}

import type { ShellCommand, ShellWord } from './shell.ts'

export type LauncherKind = 'accelerate' | 'torchrun' | 'torch.distributed' | 'deepspeed' | 'python'

/** A command that starts a trainer, taken apart. */
export interface Launch {
  readonly launcher: LauncherKind
  /** Options of the launcher itself by name, without dashes. */
  readonly options: ReadonlyMap<string, ShellWord | true>
  readonly program: ShellWord
  readonly arguments: readonly ShellWord[]
  readonly place: ShellCommand
}

/** Launcher options that stand alone. */
const switches = new Set([
  'multi_gpu',
  'use_deepspeed',
  'use_fsdp',
  'use_cpu',
  'standalone',
  'no_python',
  'module',
  'debug',
  'quiet',
  'same_network',
  'use_env',
  'no_ssh',
  'force_multi',
  'save_pid',
  'enable_each_rank_log',
  'mps',
  'tpu',
]) // prettier-ignore
const shells = new Set(['nohup', 'env', 'exec', 'time', 'sudo', 'srun', 'stdbuf', 'numactl'])
const python = /^(?:.*\/)?python(?:[\d.]+)?$/
const program = /\.py$/

/** The launch a command makes; undefined where it starts no Python program that could be a trainer. */
export function launchOf(command: ShellCommand): Launch | undefined {
  const words = withoutWrappers(command.words)
  const head = headOf(words)
  if (!head) return undefined
  const options = new Map<string, ShellWord | true>()
  let at = head.length
  for (; at < words.length; at += 1) {
    const word = words[at] as ShellWord
    if (!word.text.startsWith('-')) break
    const [, name = '', inline] = /^--?([\w.-]+)(?:=(.*))?$/s.exec(word.text) ?? []
    const key = name.replaceAll('-', '_')
    const next = words[at + 1]
    if (inline !== undefined) options.set(key, { ...word, text: inline })
    else if (head.launcher === 'python' && name === 'u') options.set(key, true)
    else if (switches.has(key) || next === undefined || next.text.startsWith('-') || program.test(next.text)) options.set(key, true)
    else {
      options.set(key, next)
      at += 1
    }
  }
  const found = words[at]
  if (!found || !(program.test(found.text) || options.get('module') === true || options.get('m') === true)) return undefined
  return { launcher: head.launcher, options, program: found, arguments: words.slice(at + 1), place: command }
}

/** Words after `nohup`, `env A=b`, `CUDA_VISIBLE_DEVICES=0` and the like. */
function withoutWrappers(words: readonly ShellWord[]): readonly ShellWord[] {
  let at = 0
  while (at < words.length && (shells.has(words[at]?.text ?? '') || /^[A-Z_]\w*=/.test(words[at]?.text ?? ''))) at += 1
  return words.slice(at)
}

function headOf(words: readonly ShellWord[]): { launcher: LauncherKind; length: number } | undefined {
  const [first = '', second = '', third = ''] = words.map(({ text }) => text.replace(/^.*\/(?=[\w.]+$)/, ''))
  if (first === 'accelerate' && second === 'launch') return { launcher: 'accelerate', length: 2 }
  if (first === 'torchrun') return { launcher: 'torchrun', length: 1 }
  if (first === 'deepspeed') return { launcher: 'deepspeed', length: 1 }
  if (!python.test(first)) return undefined
  if (second === '-m' && /^torch\.distributed\.(?:launch|run)$/.test(words[2]?.text ?? ''))
    return { launcher: 'torch.distributed', length: 3 }
  if (second === '-m' && /^accelerate\.commands\.launch$/.test(words[2]?.text ?? '')) return { launcher: 'accelerate', length: 3 }
  return third === undefined ? undefined : { launcher: 'python', length: 1 }
}

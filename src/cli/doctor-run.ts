import { statfsSync } from 'node:fs'
import { availableParallelism, freemem } from 'node:os'
import { probePython } from '../bridge/environment.ts'
import { UserError } from '../domain/errors.ts'
import { runsFolderOf } from './folders.ts'
import type { RunOptions, TrainingWorld } from './run-world.ts'
import { paintFor, writeJson } from './terminal.ts'

export interface DoctorArguments extends RunOptions {
  json: boolean
}

const formatVersion = 1

interface Finding {
  readonly name: string
  readonly ok: boolean
  readonly found: string
  readonly hint: string
}

/** Looks at Node, Python, its packages, GPUs, memory and disk. Exit code 1 where something needed is missing. */
export async function runDoctor(args: DoctorArguments, world: TrainingWorld): Promise<void> {
  const runs = await world.runsWorld({ runsFolder: runsFolderOf(args.runs, world), pythonEnv: args.pythonEnv })
  const findings = [
    systemFinding(),
    nodeFinding(),
    ...pythonFindings(() => probePython(runs.python())),
    memoryFinding(),
    diskFinding(world.cwd),
  ]
  if (args.json) writeJson(world.stdout, { formatVersion, findings })
  else {
    const { green, red, dim } = paintFor(world.stdout, world.env)
    for (const { name, ok, found, hint } of findings) {
      world.stdout.write(
        `${ok ? green('✓') : red('✗')} ${name.padEnd(14)} ${found}${ok || hint === '' ? '' : `\n  ${dim(`hint: ${hint}`)}`}\n`,
      )
    }
  }
  if (findings.some(({ ok }) => !ok)) world.setExitCode(1)
}

/** Processes are told apart by what /proc says of them. */
function systemFinding(): Finding {
  const hint = 'on Windows use WSL 2, on macOS a Linux container or machine'
  return { name: 'system', ok: process.platform === 'linux', found: `${process.platform} ${process.arch}`, hint }
}

function nodeFinding(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  return {
    name: 'Node',
    ok: major > 20 || (major === 20 && minor >= 19),
    found: process.versions.node,
    hint: 'install Node 20.19 or newer',
  }
}

function pythonFindings(probe: () => ReturnType<typeof probePython>): Finding[] {
  try {
    const { python, version, packages, cuda, gpus } = probe()
    const needed = ['torch', 'numpy', 'safetensors', 'av', 'transformers']
    const missing = needed.filter((name) => packages[name] === null)
    return [
      { name: 'Python', ok: true, found: `${version} at ${python}`, hint: '' },
      {
        name: 'packages',
        ok: missing.length === 0,
        found: missing.length === 0 ? `torch ${packages.torch}, all there` : `missing: ${missing.join(', ')}`,
        hint: 'npm run setup',
      },
      {
        name: 'GPU',
        ok: true,
        found: gpus.length > 0 ? `${gpus.length} × ${gpus[0]} (CUDA ${cuda})` : 'none: training runs on the CPU',
        hint: '',
      },
    ]
  } catch (cause) {
    if (!(cause instanceof UserError)) throw cause
    return [{ name: 'Python', ok: false, found: cause.message, hint: cause.hint ?? '' }]
  }
}

function memoryFinding(): Finding {
  const free = freemem() / 2 ** 30
  return {
    name: 'memory',
    ok: free >= 4,
    found: `${free.toFixed(1)} GiB free, ${availableParallelism()} processors`,
    hint: 'the quickstart needs 4 GiB',
  }
}

function diskFinding(folder: string): Finding {
  const { bavail, bsize } = statfsSync(folder)
  const free = (bavail * bsize) / 2 ** 30
  return { name: 'disk', ok: free >= 2, found: `${free.toFixed(1)} GiB free here`, hint: 'checkpoints need room' }
}

import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { UserError } from '../domain/errors.ts'

/** A Python with the trainer's packages, and where the trainer itself lies. */
export interface PythonEnvironment {
  readonly python: string
  /** Folder that holds the `osplan` package. */
  readonly pythonPath: string
}

/**
 * The Python to use: STAGEWRIGHT_PYTHON_ENV (a virtual environment or its python), or the environment that set-up made in the package's own folder.
 * Raises UserError PYTHON_MISSING.
 */
export function findPython(packageRoot: string, env: Readonly<Record<string, string | undefined>>): PythonEnvironment {
  const pythonPath = join(packageRoot, 'python')
  const chosen = env.STAGEWRIGHT_PYTHON_ENV || undefined
  const folder = chosen ?? join(packageRoot, '.venv')
  const python = [join(folder, 'bin', 'python'), folder].find((path) => existsSync(path) && statSync(path).isFile())
  if (python !== undefined) return { python, pythonPath }
  const hint = chosen === undefined ? 'run `npm run setup` in the checkout' : 'point it at a virtual environment or at its python'
  throw new UserError('PYTHON_MISSING', `Python: expected an environment at ${folder}, got none`, { hint })
}

/** What `doctor` reports of an environment. */
export interface PythonReport {
  readonly python: string
  readonly version: string
  readonly packages: Readonly<Record<string, string | null>>
  readonly cuda: string | null
  readonly gpus: readonly string[]
}

const probe = `
import importlib.metadata as m, json, sys
names = ["torch", "numpy", "safetensors", "av", "transformers", "orjson", "ftfy", "beautifulsoup4", "peft", "optuna"]
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
import torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"version": sys.version.split()[0], "packages": {n: version(n) for n in names}, "cuda": torch.version.cuda, "gpus": gpus}))
`

/** Asks a Python for its packages. Raises UserError PYTHON_BROKEN where it cannot import PyTorch. */
export function probePython({ python }: PythonEnvironment): PythonReport {
  const done = spawnSync(python, ['-c', probe], { encoding: 'utf8' })
  if (done.status !== 0) {
    const reason = done.error?.message ?? done.stderr.trim().split('\n').at(-1) ?? 'no answer'
    throw new UserError('PYTHON_BROKEN', `${python}: expected PyTorch to import, got ${reason}`, {
      hint: 'run `npm run setup` again; delete .venv first if it stays',
    })
  }
  return { python, ...(JSON.parse(done.stdout) as Omit<PythonReport, 'python'>) }
}

import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { execa } from 'execa'
import { UserError } from '../domain/errors.ts'
import type { TrainingWorld } from './run-world.ts'

export interface ScriptArguments {
  file: string
  arguments: string[]
}

/** Runs a script in a Node of its own, where `stagewright` means this very package and TypeScript needs no build. */
export async function runScript({ file, arguments: rest }: ScriptArguments, world: TrainingWorld): Promise<void> {
  const path = resolve(world.cwd, file)
  if (!existsSync(path))
    throw new UserError('SCRIPT_MISSING', `${file}: expected a script, got no such file`, { hint: 'configs/scripts has one to start from' })
  const loader = join(world.packageRoot, 'scripts', 'script-loader.mjs')
  const { exitCode } = await execa(process.execPath, ['--import', loader, path, ...rest], {
    cwd: world.cwd,
    stdio: 'inherit',
    reject: false,
  })
  world.setExitCode(exitCode ?? 2)
}

import { join } from 'node:path'
import { Interpreter } from '../bridge/interpreter.ts'
import { makeFolder } from '../store/files.ts'
import type { RunsWorld } from './world.ts'

let interpreter: Promise<Interpreter> | undefined

/** Asks the interpreter of this process; one question after another. Raises what `Interpreter.invoke` raises. */
export async function ask(name: string, question: Record<string, unknown>, world: RunsWorld): Promise<unknown> {
  if (!interpreter) {
    makeFolder(world.socketFolder)
    interpreter = Interpreter.open(world.python(), join(world.socketFolder, `interpreter-${process.pid}.log`))
  }
  return (await interpreter).invoke(name, question)
}

import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { findPython } from '../../src/bridge/environment.ts'
import { Interpreter, InterpreterDied } from '../../src/bridge/interpreter.ts'

const root = join(import.meta.dirname, '../..')
let interpreter: Interpreter

beforeAll(async () => {
  interpreter = await Interpreter.open(findPython(root, process.env), join(mkdtempSync(join(tmpdir(), 'interpreter-')), 'log'))
})

afterAll(() => interpreter.close())

describe('the interpreter', () => {
  test('answers a question in text', async () => {
    expect(await interpreter.invoke('ping', {})).toMatchObject({ pid: interpreter.pid })
  })

  test('gives a large answer back whole', async () => {
    const value = { text: 'ü'.repeat(1_000_000), list: [1, 2.5, null, true] }
    expect(await interpreter.invoke('echo', { value })).toEqual(value)
  })

  test('data that looks like a bridge object stays data', async () => {
    expect(await interpreter.invoke('echo', { value: { ffid: 1 } })).toEqual({ ffid: 1 })
  })

  test('a number that JSON cannot hold arrives as a tag', async () => {
    expect(await interpreter.invoke('notANumber', {})).toEqual({ $f: 'nan' })
  })

  test('an unknown question is refused with the known ones', async () => {
    await expect(interpreter.invoke('launch', {})).rejects.toMatchObject({ code: 'QUESTION_UNKNOWN' })
  })

  test('an exit inside a question is an answer, not an end', async () => {
    await expect(interpreter.invoke('exit', {})).rejects.toThrow('SystemExit')
    expect(await interpreter.invoke('ping', {})).toMatchObject({ pid: interpreter.pid })
  })

  test('a killed interpreter rejects at once and the next question starts a new one', async () => {
    const pid = interpreter.pid
    const pending = interpreter.invoke('sleep', { seconds: 60 })
    const killed = pending.catch((cause: unknown) => ({ cause, after: performance.now() - began }))
    await new Promise((resolve) => setTimeout(resolve, 100))
    const began = performance.now()
    process.kill(pid ?? 0, 'SIGKILL')
    const { cause, after } = (await killed) as { cause: unknown; after: number }
    expect(cause).toBeInstanceOf(InterpreterDied)
    expect(after).toBeLessThan(1000)
    expect(await interpreter.invoke('ping', {})).toMatchObject({ pid: interpreter.pid })
    expect(interpreter.pid).not.toBe(pid)
  })

  test('a question that takes too long ends with a code', async () => {
    await expect(interpreter.invoke('sleep', { seconds: 60 }, 300)).rejects.toMatchObject({ code: 'INTERPRETER_TIMEOUT' })
    expect(await interpreter.invoke('ping', {})).toMatchObject({ pid: interpreter.pid })
  })
})

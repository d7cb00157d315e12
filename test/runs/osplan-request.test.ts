import { chmodSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { osplanEvents } from '../../src/runs/osplan-request.ts'
import type { RunsWorld } from '../../src/runs/world.ts'

/** A world whose Python is a shell script. */
function worldOf(script: string): RunsWorld {
  const cwd = mkdtempSync(join(tmpdir(), 'stagewright-'))
  const python = join(cwd, 'python')
  writeFileSync(python, `#!/bin/sh\n${script}\n`)
  chmodSync(python, 0o755)
  return { cwd, python: () => ({ python, pythonPath: cwd }) } as unknown as RunsWorld
}

test('a request goes in as JSON and events come back', async () => {
  const world = worldOf(`request=$(cat); echo "{\\"event\\":\\"seen\\",\\"command\\":\\"$3\\",\\"request\\":$request}"`)
  expect(await osplanEvents('probe', { steps: true }, world)).toEqual([{ event: 'seen', command: 'probe', request: { steps: true } }])
})

test('what a person can mend keeps its code and hint', async () => {
  const world = worldOf(`cat > /dev/null; echo '{"event":"failed","code":"DATA_EMPTY","message":"no clips","hint":"add some"}'; exit 2`)
  await expect(osplanEvents('probe', {}, world)).rejects.toMatchObject({ code: 'DATA_EMPTY', message: 'no clips', hint: 'add some' })
})

test('anything else keeps what Python said', async () => {
  const world = worldOf('cat > /dev/null; echo Traceback >&2; exit 1')
  await expect(osplanEvents('sample', {}, world)).rejects.toThrow(/sample ended with 1: Traceback/)
})

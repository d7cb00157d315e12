import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { execa } from 'execa'
import { describe, expect, vi } from 'vitest'
import { prepareRun } from '../../src/runs/launch.ts'
import { meetingOf, nextAttempt, nodeLauncher, startedByFirst, startFirstNode } from '../../src/runs/nodes.ts'
import { readState } from '../../src/store/runs.ts'
import { fakeWorld, followed, sideOf, supervised, folderTest as test } from './fake-world.ts'

vi.setConfig({ testTimeout: 60_000 })

/** A port that nobody has now. */
async function freeMeeting(): Promise<{ host: string; port: string }> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return { host: '127.0.0.1', port: String(port) }
}

describe('several machines without a scheduler', () => {
  // The fake launcher does not wait for the other machine as the real one does: its attempts must last until that one has looked.
  test('train one run: the first supervises it, the other joins its attempt, again when it goes on', async ({ folder }) => {
    const world = supervised(fakeWorld(folder, { stepMs: 120, dies: { step: 8, how: 'fail' } }))
    const { run } = await prepareRun(sideOf({ parallel: { nodes: 2, processes: 2 }, memory: { device: 'cpu' } }), { verb: 'train' }, world)
    for (const attempt of [1, 2]) {
      const meeting = await freeMeeting()
      expect(nextAttempt(run)).toBe(attempt)
      const joined = startedByFirst(run, 30).then(({ number }) => {
        const { command, env } = nodeLauncher(run, number, meeting, 1, world)
        return execa(command[0] ?? '', command.slice(1), { cwd: run.folder, env: { ...env, FAKE_TRAINER: '{}' }, reject: false })
      })
      await vi.waitFor(() => startFirstNode(run, meeting, world), { timeout: 10_000 })
      const events = await followed(run, world, attempt)
      expect(events.at(-1)?.event).toMatchObject({ event: 'ended', reason: attempt === 1 ? 'failed' : 'completed' })
      expect((await joined).exitCode).toBe(0)
    }
    const ready = (await followed(run, world)).filter(({ event }) => event.event === 'ready')
    expect(ready.map(({ event }) => event)).toEqual([1, 2].map((attempt) => expect.objectContaining({ worldSize: 4, attempt })))
    expect(readState(run).attempts).toHaveLength(2)
  })

  test('have a line each, numbered by machine', async ({ folder }) => {
    const world = fakeWorld(folder)
    const { run } = await prepareRun(sideOf({ parallel: { nodes: 2, processes: 4 } }), { verb: 'train' }, world)
    const meeting = { host: '127.0.0.1', port: '29501' }
    const lines = [0, 1].map((node) => nodeLauncher(run, 1, meeting, node, world).command.join(' '))
    for (const [node, line] of lines.entries()) {
      expect(line).toContain(
        `--nnodes=2 --node-rank=${node} --master-addr=${meeting.host} --master-port=${meeting.port} --nproc-per-node=4`,
      )
    }
    expect(() => nodeLauncher(run, 1, meeting, 2, world)).toThrow(expect.objectContaining({ code: 'NODE_RANK' }))
    await expect(startedByFirst(run, 0)).rejects.toMatchObject({ code: 'RUN_NOT_STARTED' })
  })

  test('meet at a host and a port', async () => {
    expect(meetingOf('node1.cluster:29500')).toEqual({ host: 'node1.cluster', port: '29500' })
    expect(meetingOf('[fe80::1]:1')).toEqual({ host: '[fe80::1]', port: '1' })
    for (const wrong of ['node1', 'node1:', ':29500', 'node1:0', 'node1:70000', 'a b:1'])
      expect(() => meetingOf(wrong)).toThrow(/HOST:PORT/)
  })
})

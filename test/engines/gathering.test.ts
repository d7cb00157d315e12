import { describe, expect, test } from 'vitest'
import type { Engine, Job, JobHandle } from '../../src/engines/engine.ts'
import { GatheringEngine } from '../../src/engines/gathering.ts'

const place = { folder: '/sweep', atATime: 2 }
const job = (name: string) => ({ runFolder: name }) as Job

/** An engine that notes what it was sent, and refuses what is called wrong. */
function noted(sent: string[]): Engine {
  const outcome = ({ runFolder }: Job, at: number): PromiseSettledResult<JobHandle> =>
    runFolder === 'wrong' ? { status: 'rejected', reason: new Error('refused') } : { status: 'fulfilled', value: handle(`7_${at}`) }
  return {
    name: 'noted',
    submit: async ({ runFolder }: Job) => {
      sent.push(runFolder)
      return handle(runFolder)
    },
    arrays: {
      largest: async () => 10,
      render: async () => [],
      submit: async (jobs: readonly Job[]) => {
        sent.push(jobs.map(({ runFolder }) => runFolder).join('+'))
        return jobs.map(outcome)
      },
    },
  } as unknown as Engine
}

const handle = (jobId: string): JobHandle => ({ kind: 'slurm', jobId })

describe('jobs that are gathered', () => {
  test('go as one when the last of them is there; others go at once', async () => {
    const sent: string[] = []
    const engine = GatheringEngine.of(noted(sent))
    engine?.expect(['a', 'b'], place)
    const first = engine?.submit(job('b'))
    expect(await engine?.submit(job('other'))).toEqual(handle('other'))
    expect(sent).toEqual(['other'])
    expect(await engine?.submit(job('a'))).toEqual(handle('7_1'))
    expect(await first).toEqual(handle('7_0'))
    expect(sent).toEqual(['other', 'b+a'])
    expect(await engine?.submit(job('a'))).toEqual(handle('a'))
  })

  test('do not wait for one that will not come, and each hears of its own refusal', async () => {
    const sent: string[] = []
    const engine = GatheringEngine.of(noted(sent))
    engine?.expect(['a', 'wrong', 'gone'], place)
    const [good, bad] = [engine?.submit(job('a')), engine?.submit(job('wrong'))]
    engine?.forget('gone')
    await expect(bad).rejects.toThrow('refused')
    expect(await good).toEqual(handle('7_0'))
    expect(sent).toEqual(['a+wrong'])
  })

  test('are not gathered in front of an engine that has no arrays', () => {
    expect(GatheringEngine.of({ name: 'plain' } as Engine)).toBeUndefined()
  })
})

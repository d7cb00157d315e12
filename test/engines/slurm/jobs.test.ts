import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isLive, parseJobs, SlurmUnreachable, statusOf, taskIn } from '../../../src/engines/slurm-jobs.ts'

/** One job as Slurm 22.05 writes it. */
const old = {
  job_id: 7,
  job_state: 'PENDING',
  state_reason: 'BeginTime',
  comment: 'run:1:ab',
  eligible_time: 1000,
  end_time: 0,
  restart_cnt: 1,
  array_job_id: 0,
  array_task_id: null,
}
/** The same job as Slurm 23.11 and later write it. */
const recent = {
  ...old,
  job_state: ['PENDING', 'REQUEUED'],
  eligible_time: { set: true, infinite: false, number: 1000 },
  end_time: { set: true, infinite: false, number: 0 },
  array_job_id: { set: true, infinite: false, number: 0 },
  array_task_id: { set: false, infinite: false, number: 0 },
}
const answer = (jobs: unknown[], errors: unknown[] = []) => JSON.stringify({ meta: {}, errors, jobs })

describe('the answer of squeue', () => {
  test('is read in its old and its new form', () => {
    const expected = { id: '7', token: 'run:1:ab', reason: 'BeginTime', eligibleAt: 1000, endedAt: 0, restarts: 1 }
    for (const form of [old, recent]) {
      const [job] = parseJobs(answer([form]))
      expect(job).toMatchObject(expected)
      expect(job && statusOf(job, 900, 0)).toEqual({ state: 'queued', why: 'BeginTime', eligibleAt: 1000, restarts: 1 })
      expect(job && statusOf(job, 1001, 0)).toMatchObject({ state: 'queued', eligibleAt: null })
    }
  })

  test('with errors is no answer, although squeue calls it a success', () => {
    expect(() => parseJobs(answer([], [{ description: 'Failed while looking for jobs', error: 'Unspecified error' }]))).toThrow(
      SlurmUnreachable,
    )
    for (const text of ['', '{', '[]', '{"jobs":7}']) expect(() => parseJobs(text)).toThrow(SlurmUnreachable)
  })

  test('names elements of an array by both their numbers, and passes over jobs of others', () => {
    const element = { ...old, job_id: 9, array_job_id: 8, array_task_id: 2 }
    expect(parseJobs(answer([element, { ...old, comment: '' }, { job_id: 'x' }])).map(({ id }) => id)).toEqual(['8_2'])
  })

  test('has tasks of an array that wait in one entry, from which each is found', () => {
    const entry = { ...old, job_id: 8, comment: 'array:run:1:ab', array_job_id: 8, array_task_string: '2-4,8-12:2,20%3' }
    const forms = [entry, { ...entry, array_job_id: { set: true, infinite: false, number: 8 }, array_task_id: recent.array_task_id }]
    for (const form of forms) {
      const [job] = parseJobs(answer([form]))
      const found = Array.from({ length: 30 }, (_, task) => job && taskIn(job, { token: 'array:run:1:ab', task })?.id).filter(Boolean)
      expect(found).toEqual(['8_2', '8_3', '8_4', '8_8', '8_10', '8_12', '8_20'])
      expect(job && taskIn(job, { token: 'array:other', task: 2 })).toBeUndefined()
    }
    const [cut] = parseJobs(answer([{ ...entry, array_task_string: '1,3,...%2' }]))
    expect([1, 2, 3, 9].map((task) => cut && taskIn(cut, { token: 'array:run:1:ab', task })?.id)).toEqual(['8_1', '8_2', '8_3', '8_9'])
    const [alone] = parseJobs(answer([{ ...entry, array_task_string: '' }, old]))
    expect(alone?.array).toBeUndefined()
  })

  test('never throws anything but SlurmUnreachable', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          fc.record({ errors: fc.anything(), jobs: fc.array(fc.anything()) }).map((value) => JSON.stringify(value)),
        ),
        (text) => {
          try {
            parseJobs(text)
          } catch (cause) {
            expect(cause).toBeInstanceOf(SlurmUnreachable)
          }
        },
      ),
    )
  })
})

describe('a job without a status of its own', () => {
  const ended = (state: string | string[], endedAt = 100) => {
    const [job] = parseJobs(answer([{ ...old, job_state: state, end_time: endedAt }]))
    if (!job) throw new Error('the job was not read')
    return job
  }

  for (const [state, reason] of [
    ['OUT_OF_MEMORY', 'out-of-memory'],
    ['TIMEOUT', 'killed'],
    ['NODE_FAIL', 'lost'],
    ['CANCELLED', 'killed'],
    ['FAILED', 'failed'],
  ] as const) {
    test(`has ended for what Slurm says: ${state}`, () => {
      expect(statusOf(ended(state), 200, 15)).toMatchObject({ state: 'ended', told: { reason, message: expect.stringContaining(state) } })
      expect(isLive(ended(state))).toBe(false)
    })
  }

  test('runs on for a moment: its exit file may be on its way', () => {
    expect(statusOf(ended('COMPLETED', 190), 200, 15)).toEqual({ state: 'running' })
    expect(statusOf(ended(['CANCELLED', 'COMPLETING']), 200, 15)).toEqual({ state: 'running' })
    expect(isLive(ended(['CANCELLED', 'COMPLETING']))).toBe(true)
  })

  test('runs in every state this version does not know', () => {
    expect(statusOf(ended('SOMETHING_NEW'), 200, 15)).toEqual({ state: 'running' })
  })
})

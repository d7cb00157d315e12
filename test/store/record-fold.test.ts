import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect } from 'vitest'
import { foldRun } from '../../src/domain/run/state.ts'
import { supervisorJournal, trainerJournal } from '../../src/store/journal.ts'
import { filesOf, readState } from '../../src/store/runs.ts'
import { folderTest as test } from '../runs/fake-world.ts'

const step = fc.integer({ min: 1, max: 15 })
const earlier = fc.integer({ min: 0, max: 15 })
const loss = fc.oneof(fc.double({ min: 0, max: 9, noNaN: true }), fc.constant({ $f: 'nan' }))

/** Anything a trainer may say, in any order it could be said in and in some it could not. */
const said = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ event: fc.constant('step'), step, loss, learningRate: fc.constant(1e-4), secondsPerStep: fc.constant(0.5) }),
  },
  fc.record({
    event: fc.constant('step'),
    step,
    loss,
    learningRate: loss,
    gradientNorm: fc.option(fc.constant(0.5)),
    secondsPerStep: loss,
    clips: fc.constant(4),
    memoryBytes: fc.option(fc.integer({ min: 0, max: 2 ** 40 })),
  }),
  fc.record({ event: fc.constant('started'), step: earlier, steps: fc.constant(15) }),
  fc.record({ event: fc.constant('heldOut'), step: earlier, raw: fc.record({ loss }), ema: fc.option(fc.record({ loss })) }),
  fc.record({ event: fc.constant('heartbeat'), step: earlier }),
  fc.record({
    event: fc.constant('incident'),
    step,
    kind: fc.constant('spike'),
    message: fc.constant('m'),
    action: fc.constant('a'),
    rolledBackTo: fc.option(earlier),
    undone: fc.option(fc.constant({ learningRate: [1, 2] })),
  }),
  fc.record({
    event: fc.constant('sample'),
    step,
    path: fc.constantFrom('a.mp4', 'b.mp4'),
    prompt: fc.constant('p'),
    weights: fc.constant('raw'),
  }),
  fc.record({
    event: fc.constant('checkpoint'),
    step,
    path: fc.constantFrom('c1', 'c2'),
    bytes: fc.constant(1),
    sha256: fc.constant('x'),
    seconds: fc.constant(1),
  }),
  fc.record({
    event: fc.constant('command'),
    id: fc.constant('i'),
    name: fc.constant('set'),
    step,
    status: fc.constantFrom('applied', 'refused'),
    path: fc.constantFrom('steps', 'learningRate'),
    effective: fc.constant(12),
  }),
  fc.constant({ event: 'unheard of', step: 3 }),
)
const attempts = fc.array(fc.array(said, { maxLength: 25 }), { minLength: 1, maxLength: 3 })

test('the state read from what is kept is the fold over every line', ({ folder }) => {
  mkdirSync(join(folder, 'derived'), { recursive: true })
  const files = filesOf(folder)
  fc.assert(
    fc.property(attempts, (all) => {
      let [seq, ts] = [0, 100]
      const line = (attempt: number, body: object) => `${JSON.stringify({ seq: seq++, ts: ts++, attempt, ...body })}\n`
      const trainer = all.map((events, place) => events.map((event) => line(place + 1, event)).join('')).join('')
      const supervisor = all.map((_, place) => {
        const begin = line(place + 1, { event: 'attempt', engine: 'local', handle: null, command: [], continuesFrom: null })
        const end = { event: 'ended', reason: 'killed', message: 'm', exitCode: null, signal: null, step: null, hint: '', log: null }
        return begin + (place < all.length - 1 ? line(place + 1, end) : '')
      })
      writeFileSync(files.trainer, trainer)
      writeFileSync(files.supervisor, supervisor.join(''))
      const folded = foldRun(trainerJournal(files.trainer).next(), supervisorJournal(files.supervisor).next())
      expect(readState({ folder })).toEqual(folded)
    }),
    { numRuns: 300 },
  )
})

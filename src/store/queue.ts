import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { UserError } from '../domain/errors.ts'
import type { ProcessIdentity } from '../domain/protocol.ts'
import { foldQueue, type Queue, type QueueEvent, queueEvent } from '../domain/queue/queue.ts'
import { makeFolder } from './files.ts'
import { type BodyOf, JournalReader, JournalWriter } from './journal.ts'
import { takeLock } from './lock.ts'

const pollMs = 10
const patienceMs = 10_000

/** Paths of a queue's folder. */
export const queueFiles = (folder: string) => ({
  journal: join(folder, 'queue.jsonl'),
  /** Held for one line. */
  writeLock: join(folder, 'write.lock'),
  /** Held as long as a driver is at work. */
  driverLock: join(folder, 'driver.lock'),
  log: join(folder, 'driver.log'),
})

/** Where the queue of this machine lies. A folder of runs may be shared; slots are not. */
export function queueFolder(runsFolder: string): string {
  return join(runsFolder, 'queues', hostname())
}

/** How a queue stands; an empty one where nothing was ever added. */
export function readQueue(folder: string): Queue {
  return foldQueue(new JournalReader(queueFiles(folder).journal, queueEvent).next())
}

type QueueLine = BodyOf<QueueEvent, 'seq' | 'ts'>

/**
 * Adds what `change` makes of the queue as it stands, while nobody else does. Raises UserError QUEUE_BUSY where another process keeps
 * the queue for long.
 */
export async function changeQueue<Line extends QueueLine>(
  folder: string,
  own: ProcessIdentity,
  isAlive: (holder: ProcessIdentity) => boolean,
  change: (queue: Queue) => readonly Line[],
): Promise<void> {
  makeFolder(folder)
  const until = Date.now() + patienceMs
  for (;;) {
    const taken = takeLock(queueFiles(folder).writeLock, own, isAlive)
    if ('release' in taken) {
      try {
        const lines = change(readQueue(folder))
        const journal = new JournalWriter(queueFiles(folder).journal)
        for (const line of lines) journal.append(line)
        journal.close()
        return
      } finally {
        taken.release()
      }
    }
    if (Date.now() > until) {
      throw new UserError('QUEUE_BUSY', `${folder}: expected the queue to be free for a moment, got process ${taken.pid} holding it`, {
        hint: 'try again',
      })
    }
    await sleep(pollMs)
  }
}

import { closeSync, existsSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { takeLock } from '../../src/store/lock.ts'

/*
 * One of several processes that fight for a lock: `folder times`. It goes on until it has held the lock that often. After each time it gives it back or dies
 * by leaving a mark, so that the others find it stale. Prints how often it held the lock and how often somebody else held it too.
 */
const [folder = '', times = ''] = process.argv.slice(2)
let held = 0
let broken = 0
for (let round = 0; held < Number(times); round += 1) {
  const own = { pid: process.pid * 1000 + round, startTime: '1', host: 'here' }
  const lock = takeLock(join(folder, 'lock'), own, ({ pid }) => !existsSync(join(folder, `dead-${pid}`)))
  if (!('release' in lock)) continue
  held += 1
  try {
    closeSync(openSync(join(folder, 'inside'), 'wx'))
  } catch {
    broken += 1
  }
  rmSync(join(folder, 'inside'), { force: true })
  if (held % 3 === 0) lock.release()
  else writeFileSync(join(folder, `dead-${own.pid}`), '')
}
console.log(JSON.stringify({ held, broken }))

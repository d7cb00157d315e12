import { spawn } from 'node:child_process'
import { get } from 'node:http'
import { createInterface } from 'node:readline'
import { filesOf } from '../../src/store/runs.ts'

/** The page's server in a process of its own, over a folder of runs. */
export interface ServedRuns {
  /** Address with the token for reading. */
  readonly url: string
  /** Opens live connections to a run; resolves once each has heard of it. The function given back closes them. */
  readonly watch: (run: string, viewers: number) => Promise<() => void>
  readonly close: () => void
}

/** Starts the server of a program. It ends with this process. */
export async function servedRuns(program: string, runsFolder: string): Promise<ServedRuns> {
  const words = [program, 'web', '--port', '0', '--json', '--runs', runsFolder]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  const stop = () => child.kill()
  process.once('exit', stop)
  const { port, readUrl } = JSON.parse(await textOf(child.stdout, /^}$/)) as { port: number; readUrl: string }
  const token = readUrl.split('token=')[1] ?? ''
  return {
    url: readUrl,
    watch: async (run, viewers) => {
      const opened = await Promise.all(Array.from({ length: viewers }, () => viewer(port, token, run)))
      return () => {
        for (const close of opened) close()
      }
    },
    close: () => {
      process.off('exit', stop)
      stop()
    },
  }
}

/** Lines of a stream up to the first that looks like `last`. */
async function textOf(stream: NodeJS.ReadableStream, last: RegExp): Promise<string> {
  const lines: string[] = []
  for await (const line of createInterface({ input: stream })) {
    lines.push(line)
    if (last.test(line)) return lines.join('\n')
  }
  throw new Error(`expected a line ${last}, got ${lines.join('\n')}`)
}

function viewer(port: number, token: string, run: string): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const path = `/api/runs/${run}/events`
    const call = get({ host: '127.0.0.1', port, path, headers: { authorization: `Bearer ${token}` }, agent: false }, (response) => {
      if (response.statusCode !== 200) reject(new Error(`${path} answered ${response.statusCode}`))
      response.once('data', () => resolve(() => response.destroy()))
      response.on('error', () => undefined).resume()
    })
    call.on('error', reject)
  })
}

/**
 * Stands in for a trainer: multiplies matrices on one thread and writes a journal's lines, a step each 40 milliseconds or so. For each line
 * with a number of seconds it trains that long and says how many seconds of the processor a step took.
 */
const stepping = `
import json, sys, time
import torch
torch.set_num_threads(1)
weights, step = torch.randn(512, 512), int(sys.argv[2])
with open(sys.argv[1], "a", buffering=1) as journal:
    for line in sys.stdin:
        used, first, until = time.process_time(), step, time.monotonic() + float(line)
        while time.monotonic() < until:
            step += 1
            for _ in range(10):
                loss = torch.tanh(weights @ weights).mean().item()
            row = {"seq": step + 1000, "ts": time.time(), "attempt": 1, "event": "step", "step": step, "loss": loss, "learningRate": 1e-4, "secondsPerStep": 0.04, "clips": 8}
            journal.write(json.dumps(row) + "\\n")
        print((time.process_time() - used) / (step - first), flush=True)
`

/** A process that writes the journal of a run; asked for some seconds of training, it says the processor's seconds of a step. */
export function steppingRun(
  python: string,
  folder: string,
  after: number,
): { train: (seconds: number) => Promise<number>; close: () => void } {
  const child = spawn(python, ['-c', stepping, filesOf(folder).trainer, String(after)], { stdio: ['pipe', 'pipe', 'inherit'] })
  const stop = () => child.kill()
  process.once('exit', stop)
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    train: async (seconds) => {
      child.stdin.write(`${seconds}\n`)
      return Number((await answers.next()).value)
    },
    close: () => {
      process.off('exit', stop)
      stop()
    },
  }
}

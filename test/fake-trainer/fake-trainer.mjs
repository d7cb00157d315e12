/*
 * A trainer that trains nothing and obeys the protocol: journal, socket, command files, checkpoints, ends. Started as torchrun would be
 * (`python -m torch.distributed.run … -m osplan train RUN --attempt=K`) it starts its ranks in sessions of their own, as torchrun does.
 * FAKE_TRAINER holds JSON: how it behaves, see `behaviour`.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { createServer } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const behaviour = {
  stepMs: 5,
  /** Step before which rank 0 stops talking and the way it does: `{step, how: 'kill' | 'torn' | 'fail' | 'memory' | 'silent'}`. */
  dies: null,
  /** Attempt in which it dies. */
  diesInAttempt: 1,
  withoutSocket: false,
  ...JSON.parse(process.env.FAKE_TRAINER ?? '{}'),
}
const args = process.argv.slice(2)
const run = args[args.indexOf('train') + 1]
const attempt = Number(args.find((arg) => arg.startsWith('--attempt='))?.split('=')[1])

if (args.includes('torch.distributed.run')) launch(Number(args.find((arg) => arg.startsWith('--nproc-per-node='))?.split('=')[1]))
else await rank(Number(process.env.RANK))

function launch(count) {
  const ranks = Array.from({ length: count }, (_, number) =>
    spawn(process.execPath, [fileURLToPath(import.meta.url), '-m', 'osplan', 'train', run, `--attempt=${attempt}`], {
      detached: true,
      stdio: 'inherit',
      env: { ...process.env, RANK: String(number), WORLD_SIZE: String(count) },
    }),
  )
  let bad = false
  const endAll = () => ranks.forEach((child) => void child.kill('SIGTERM'))
  process.on('SIGTERM', () => {
    bad = true
    endAll()
  })
  let left = count
  for (const child of ranks) {
    child.on('exit', (code, signal) => {
      if (signal) console.error(`  exitcode  : -${signal === 'SIGKILL' ? 9 : 15} (pid: ${child.pid})`)
      if (code !== 0) {
        bad = true
        endAll()
      }
      left -= 1
      if (left === 0) process.exit(bad ? 1 : 0)
    })
  }
}

async function rank(number) {
  const parent = process.ppid
  let requested
  process.on('SIGTERM', () => {
    requested ??= { name: 'signal' }
  })
  setInterval(() => {
    if (process.ppid !== parent) requested ??= { name: 'signal' }
  }, 50)
  if (number === 0) await train(() => requested)
  while (requested === undefined && !fs.existsSync(join(run, 'derived', `done-${attempt}`))) await sleep(20)
  process.exit(0)
}

async function train(signalled) {
  const identity = JSON.parse(fs.readFileSync(join(run, 'run.json'), 'utf8'))
  const stage = JSON.parse(fs.readFileSync(join(run, 'stage.json'), 'utf8'))
  const journal = openJournal()
  const queue = []
  const waiting = new Map()
  const take = (command) => queue.push(command)
  if (!behaviour.withoutSocket) await listen(identity.socket, identity.id, journal, take, waiting)
  const ready = { protocol: 1, worldSize: stage.parallel.processes, pids: [process.pid], host: hostname(), device: 'cpu' }
  journal.write('opened', { formatVersion: 1 })
  journal.write('ready', { ...ready, torch: 'none', threads: 1, socket: behaviour.withoutSocket ? null : identity.socket })
  journal.write('model', { parameters: 10, trainable: 10, groups: [] })
  journal.write('data', { clips: 4, heldOut: 1, dropped: {}, stepsPerEpoch: 2, endsAt: stage.steps, endsBecause: 'steps' })
  let step = newestCheckpoint()
  let { steps, learningRate } = stage
  journal.write('started', { step, steps })
  let stopAfter = Number.POSITIVE_INFINITY
  const finish = (reason, message) => {
    if (newestCheckpoint() !== step) checkpoint(journal, step, stage)
    journal.write('finished', { step, reason, message })
    fs.writeFileSync(join(run, 'derived', `done-${attempt}`), '')
    fs.rmSync(identity.socket, { force: true })
    process.exit(0)
  }
  while (step < steps) {
    readCommandFiles(take)
    for (const command of queue.splice(0)) {
      const isSet = command.name === 'set'
      const refused = isSet && typeof command.value !== 'number'
      if (command.name === 'stop') stopAfter = command.after ?? step
      if (isSet && !refused && command.path === 'learningRate') learningRate = command.value
      if (isSet && !refused && command.path === 'steps') steps = command.value
      const line = journal.write('command', {
        ...command,
        step: step + 1,
        status: refused ? 'refused' : 'applied',
        effective: isSet && !refused ? command.value : null,
        message: refused ? 'expected a number' : null,
      })
      waiting.get(command.id)?.(line)
      fs.rmSync(join(run, 'commands', `${command.id}.json`), { force: true })
      if (command.name === 'pause') finish('paused', `paused after step ${step}`)
    }
    if (step >= stopAfter) finish('stopped', `stopped by request after step ${step}`)
    if (signalled()) finish('stopped', `stopped by a signal after step ${step}`)
    if (behaviour.dies && step + 1 === behaviour.dies.step && attempt === behaviour.diesInAttempt)
      await die(journal, behaviour.dies.how, step)
    await sleep(behaviour.stepMs)
    step += 1
    journal.write('step', { step, loss: lossOf(step), learningRate, gradientNorm: 1, secondsPerStep: behaviour.stepMs / 1000 || 0.001 })
    if (stage.checkpoint.everySteps && step % stage.checkpoint.everySteps === 0) checkpoint(journal, step, stage)
  }
  finish('completed', `all ${steps} steps are done`)
}

/** A loss that depends on the step alone; step 7 has none that is a number. */
function lossOf(step) {
  return step === 7 ? { $f: 'nan' } : 1 / step
}

async function die(journal, how, step) {
  console.error(`about to ${how}`)
  if (how === 'torn') journal.tear()
  if (how === 'fail') journal.write('failed', { code: 'SHAPE_FRAMES', message: 'expected 1 + 4k frames, got 64', hint: 'use 61', rank: 0 })
  if (how === 'memory') journal.write('failed', { code: 'OUT_OF_MEMORY', message: 'OutOfMemoryError: 3 GiB', rank: 0 })
  if (how === 'kill' || how === 'torn') process.kill(process.pid, 'SIGKILL')
  if (how === 'silent') await sleep(3_600_000)
  console.error(`ended before step ${step + 1}`)
  process.exit(1)
}

function openJournal() {
  const path = join(run, 'trainer.jsonl')
  const before = fs.existsSync(path) ? fs.readFileSync(path) : Buffer.alloc(0)
  const whole = before.lastIndexOf(0x0a) + 1
  const file = fs.openSync(path, 'a', 0o600)
  fs.ftruncateSync(file, whole)
  const last = before.toString('utf8', 0, whole).trimEnd().split('\n').at(-1)
  let seq = last ? JSON.parse(last).seq + 1 : 0
  return {
    path,
    get seq() {
      return seq
    },
    size: () => fs.fstatSync(file).size,
    write(event, fields) {
      const line = { seq: seq++, ts: Date.now() / 1000, attempt, event, ...fields }
      fs.writeSync(file, `${JSON.stringify(line)}\n`)
      return line
    },
    tear: () => fs.writeSync(file, `{"seq":${seq},"ts":1,"attempt":${attempt},"event":"st`),
  }
}

function newestCheckpoint() {
  const steps = fs
    .readdirSync(join(run, 'checkpoints'))
    .filter((name) => name.startsWith('step-') && fs.existsSync(join(run, 'checkpoints', name, 'manifest.json')))
  return Math.max(0, ...steps.map((name) => Number(name.slice(5))))
}

function checkpoint(journal, step, stage) {
  const name = `step-${String(step).padStart(8, '0')}`
  const folder = join(run, 'checkpoints', name)
  const files = {}
  for (const part of ['model', ...(stage.ema.enabled ? ['model_ema'] : [])]) {
    fs.mkdirSync(join(folder, part), { recursive: true })
    const content = `${part} at ${step}`
    fs.writeFileSync(join(folder, part, 'diffusion_pytorch_model.safetensors'), content)
    const sha256 = createHash('sha256').update(content).digest('hex')
    files[`${part}/diffusion_pytorch_model.safetensors`] = { bytes: content.length, sha256 }
  }
  const heldOut = { raw: { loss: 1 / step }, ema: stage.ema.enabled ? { loss: 1 / step } : null }
  const manifest = { formatVersion: 1, step, attempt, stageHash: 'none', heldOut, files }
  fs.writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest))
  const { sha256 } = Object.values(files).at(-1)
  journal.write('checkpoint', { step, path: `checkpoints/${name}`, bytes: 1, sha256, seconds: 0 })
}

function readCommandFiles(take) {
  const folder = join(run, 'commands')
  for (const name of fs.readdirSync(folder).filter((file) => file.endsWith('.json')))
    take(JSON.parse(fs.readFileSync(join(folder, name), 'utf8')))
}

function listen(path, id, journal, take, waiting) {
  fs.mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 })
  fs.rmSync(path, { force: true })
  const server = createServer((socket) => {
    let rest = ''
    const answer = (body) => socket.write(`${JSON.stringify({ jsonrpc: '2.0', ...body })}\n`)
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()
      for (const line of lines) {
        const { id: number, method, params } = JSON.parse(line)
        if (method === 'hello') {
          if (params.protocol === 1) answer({ id: number, result: { protocol: 1, run: id, attempt, seq: journal.seq, pid: process.pid } })
          else
            answer({
              id: number,
              error: { code: -32001, message: `expected protocol 1, got ${params.protocol}`, data: { code: 'PROTOCOL_VERSION' } },
            })
          continue
        }
        waiting.set(params.id, (result) => answer({ id: number, result }))
        take({ ...params, name: method })
      }
    })
  })
  return new Promise((resolve) => server.listen(path, resolve))
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

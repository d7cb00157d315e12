// Puts everything in place in the checkout: npm packages and a Python virtual environment. Runs on bare Node, before anything is installed.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const dev = process.argv.includes('--dev')
const venv = join(root, '.venv')
const venvPython = join(venv, 'bin', 'python')
const stampsFolder = join(root, 'node_modules', '.stagewright')
const started = Date.now()

class SetupError extends Error {
  constructor(code, message, hint) {
    super(message)
    this.code = code
    this.hint = hint
  }
}

function hashOf(...files) {
  const hash = createHash('sha256')
  for (const file of files) hash.update(readFileSync(join(root, file)))
  return hash.digest('hex')
}

function isStamped(file, content) {
  return existsSync(file) && readFileSync(file, 'utf8') === content
}

/** Runs a program and shows its last line in place; keeps everything for the error. */
function runShowing(title, program, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], ...options })
    let output = ''
    let shown = ''
    const began = Date.now()
    const show = () => {
      const seconds = Math.round((Date.now() - began) / 1000)
      const line = `${title} ${seconds} s  ${shown}`.slice(0, (process.stdout.columns || 80) - 1)
      if (process.stdout.isTTY) process.stdout.write(`\r\x1b[2K${line}`)
    }
    const take = (data) => {
      output += data
      shown = String(data).trim().split('\n').at(-1) ?? ''
      show()
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    const clock = setInterval(show, 1000)
    child.on('error', (cause) => {
      clearInterval(clock)
      reject(cause)
    })
    child.on('close', (code) => {
      clearInterval(clock)
      if (process.stdout.isTTY) process.stdout.write('\r\x1b[2K')
      if (code !== 0) return reject(Object.assign(new Error(`${program} ended with ${code}`), { output }))
      console.log(`${title} ${((Date.now() - began) / 1000).toFixed(1)} s`)
      resolve(output)
    })
  })
}

/** Processes are told apart by what /proc says of them. */
function checkSystem() {
  if (process.platform === 'linux') return
  throw new SetupError(
    'SYSTEM',
    `system: expected Linux, got ${process.platform}`,
    'on Windows use WSL 2, on macOS a Linux container or machine',
  )
}

async function installNodePackages() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new SetupError('NODE_TOO_OLD', `node: expected 20.19 or newer, got ${process.versions.node}`, 'install Node 20.19 or newer')
  }
  const wanted = hashOf('package-lock.json')
  const stamp = join(stampsFolder, 'npm')
  if (isStamped(stamp, wanted)) return
  try {
    await runShowing('npm packages', 'npm', ['ci', '--no-audit', '--no-fund'])
  } catch (cause) {
    throw new SetupError(
      'NPM_FAILED',
      `npm ci: expected the locked packages, got:\n${tail(cause)}`,
      'check the network and the npm configuration',
    )
  }
  mkdirSync(stampsFolder, { recursive: true })
  writeFileSync(stamp, wanted)
}

function probe(program) {
  const code = 'import json,sys;print(json.dumps({"version":sys.version_info[:3],"prefix":sys.prefix,"bits":sys.maxsize>2**32}))'
  const done = spawnSync(program, ['-I', '-c', code], { encoding: 'utf8' })
  if (done.status !== 0) return { program, problem: done.error ? 'not found' : (done.stderr || 'does not start').trim().split('\n').at(-1) }
  const { version, bits } = JSON.parse(done.stdout)
  const fits = version[0] === 3 && version[1] >= 11 && version[1] <= 13 && bits
  return { program, version: version.join('.'), problem: fits ? undefined : `is ${version.join('.')}` }
}

function findPython() {
  const chosen = process.env.STAGEWRIGHT_PYTHON
  const tried = (chosen ? [chosen] : ['python3.12', 'python3.11', 'python3.13', 'python3', 'python']).map(probe)
  const found = tried.find((candidate) => !candidate.problem)
  if (found) return found.program
  const list = tried.map(({ program, problem }) => `${program} ${problem}`).join(', ')
  throw new SetupError(
    'PYTHON_MISSING',
    `Python: expected 3.11, 3.12 or 3.13, got: ${list}`,
    chosen ? 'point STAGEWRIGHT_PYTHON at a Python 3.11 to 3.13' : 'install Python 3.11 to 3.13, or point STAGEWRIGHT_PYTHON at one',
  )
}

async function installPythonPackages() {
  const lock = dev ? 'dev.lock' : 'runtime.lock'
  const wanted = hashOf('python/requirements/runtime.lock', 'python/requirements/dev.lock')
  const complete = (name) => isStamped(join(venv, name), wanted) && existsSync(venvPython)
  if (complete('.dev-complete') || (!dev && complete('.runtime-complete'))) return
  if (!existsSync(venvPython)) {
    const python = findPython()
    rmSync(venv, { recursive: true, force: true })
    try {
      await runShowing('Python environment', python, ['-m', 'venv', venv])
    } catch (cause) {
      rmSync(venv, { recursive: true, force: true })
      throw new SetupError(
        'VENV_FAILED',
        `${python} -m venv: expected an environment in .venv, got:\n${tail(cause)}`,
        'on Debian and Ubuntu: apt install python3-venv',
      )
    }
  }
  const index = process.env.STAGEWRIGHT_TORCH_INDEX
  const args = [
    '-m',
    'pip',
    'install',
    '--disable-pip-version-check',
    '--no-input',
    '--prefer-binary',
    ...(index ? ['--extra-index-url', index] : []),
    '-r',
    join('python', 'requirements', lock),
  ]
  try {
    await runShowing(`Python packages (${lock.replace('.lock', '')}, PyTorch is the large one)`, venvPython, args)
    await runShowing('Python import check', venvPython, ['-c', 'import torch, av, safetensors, transformers; print(torch.__version__)'])
  } catch (cause) {
    throw new SetupError(
      'PIP_FAILED',
      `pip: expected the locked packages, got:\n${tail(cause)}`,
      'check the network and pip’s configuration; STAGEWRIGHT_TORCH_INDEX adds an index, such as PyTorch’s own for CPU builds',
    )
  }
  writeFileSync(join(venv, '.runtime-complete'), wanted)
  if (dev) writeFileSync(join(venv, '.dev-complete'), wanted)
}

function tail(cause) {
  return String(cause.output ?? cause.message)
    .trim()
    .split('\n')
    .slice(-8)
    .join('\n')
}

/** One set-up at a time in a checkout; a lock whose process is gone is taken over. */
function lockCheckout() {
  const lock = join(root, '.setup.lock')
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' })
      process.on('exit', () => rmSync(lock, { force: true }))
      for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(signal === 'SIGINT' ? 130 : 143))
      return
    } catch (cause) {
      if (cause.code !== 'EEXIST') throw cause
      const owner = Number(readFileSync(lock, 'utf8'))
      if (owner && existsSync(`/proc/${owner}`) && Date.now() - statSync(lock).mtimeMs < 3_600_000) {
        throw new SetupError('SETUP_RUNNING', `set-up: expected to be alone, got another one with pid ${owner}`, 'wait for it to end')
      }
      rmSync(lock, { force: true })
    }
  }
}

try {
  checkSystem()
  lockCheckout()
  await installNodePackages()
  await installPythonPackages()
  if (Date.now() - started > 3000) console.log(`set-up complete in ${((Date.now() - started) / 1000).toFixed(0)} s`)
} catch (cause) {
  if (!(cause instanceof SetupError)) throw cause
  console.error(`${cause.message} [${cause.code}]\nhint: ${cause.hint}`)
  process.exitCode = 2
}

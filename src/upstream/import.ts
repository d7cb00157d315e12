import type { Finding, Origin } from '../domain/stage/origin.ts'
import type { ArgumentProblem } from './arguments.ts'
import { type Detected, detectTrainer } from './detect.ts'
import { type FlagField, fieldsOf, type Settings } from './flag-fields.ts'
import { type ImportedStage, launchKeys, sameValue } from './imported-stage.ts'
import { launchSettings, type ReadText } from './launch-config.ts'
import { type Launch, launchOf } from './launcher.ts'
import { foldMegatron } from './megatron.ts'
import { releaseFacts } from './release-facts.ts'
import { releaseFindings } from './release-findings.ts'
import { cutLaunches, scriptFindings } from './script-findings.ts'
import { Secrets } from './secrets.ts'
import { readShell, type ShellCommand, type ShellScript } from './shell.ts'
import { readSidecars } from './sidecars.ts'
import { StageBuilder } from './stage-builder.ts'
import type { FlagSpec, FlagValue, Trainer } from './trainer.ts'
import { treeFindings } from './tree-findings.ts'

export interface ImportOptions {
  /** How the script is called in origins and findings. */
  readonly file: string
  /** Version of the trainer, where it should not be detected: `v1.2`, `v1.3.1`. */
  readonly trainer?: string | undefined
  /** Reads a file the script names, by the path it writes; undefined where there is none. */
  readonly readFile?: ReadText | undefined
}

const noFile: ReadText = () => undefined

/**
 * Every launch of a bash script as a complete stage, filled with the defaults of the trainer it was written for. What has no field stands
 * in `stage.upstream`. A script that starts no known trainer gives none. Raises UserError UPSTREAM_VERSION.
 */
export function importScript(text: string, options: ImportOptions): ImportedStage[] {
  const shell = readShell(text)
  const secrets = new Secrets(shell)
  const launches = shell.commands.flatMap((command) => launchOf(command) ?? [])
  const known = launches.flatMap((launch) => {
    const detected = detectTrainer(launch, options.file, options.trainer)
    return detected ? [{ launch, detected }] : []
  })
  const common = scriptFindings(shell, secrets, options.file)
  return known.map(({ launch, detected }, index) => {
    const name = stageName(options.file, known.length > 1 ? index + 1 : undefined)
    return new StageImport(launch, detected, secrets, shell, options).result(name, index === 0 ? common : [])
  })
}

/** Findings of a script that starts no known trainer, and how many commands it has; for one that does they stand with its stages. */
export function findingsWithoutStage(text: string, file: string): { readonly findings: readonly Finding[]; readonly commands: number } {
  const shell = readShell(text)
  return { findings: [...scriptFindings(shell, new Secrets(shell), file), ...cutLaunches(shell, file)], commands: shell.commands.length }
}

function stageName(file: string, number: number | undefined): string {
  const base = file.replace(/^.*\//, '').replace(/\.sh$/i, '').replace(/@.*$/, '')
  const safe = base
    .replace(/[^a-z0-9._-]+/gi, '-')
    .replace(/^[^a-z0-9]+/i, '')
    .slice(0, 60)
  return `${safe || 'stage'}${number === undefined ? '' : `-${number}`}`
}

class StageImport {
  private readonly trainer: Trainer
  private readonly fields: ReadonlyMap<string, FlagField>
  private readonly effective = new Map<string, FlagValue>()
  private readonly findings: Finding[] = []

  constructor(
    private readonly launch: Launch,
    private readonly detected: Detected,
    private readonly secrets: Secrets,
    private readonly shell: ShellScript,
    private readonly options: ImportOptions,
  ) {
    this.trainer = detected.trainer
    this.fields = fieldsOf(this.trainer)
  }

  result(name: string, common: readonly Finding[]): ImportedStage {
    const builder = new StageBuilder(name)
    const { trainer, options } = this
    builder.set(releaseFacts(trainer), { layer: 'trainer default' })
    this.readFlags(builder)
    this.readLaunch(builder)
    const read = options.readFile ?? noFile
    this.findings.push(...readSidecars(builder, this.effective, trainer, read, options.file))
    if (trainer.family === 'megatron') this.foldMegatron(builder, read)
    const complete = builder.build()
    this.keepRest(builder)
    const stage = { ...complete, upstream: builder.peek().upstream }
    const findings = [...common, ...this.argumentFindings(), ...this.findings]
    const imported = {
      label: options.file,
      stage,
      origins: builder.origins,
      flagNames: builder.flagNames,
      trainerVersion: trainer.version,
      version: trainer.version,
      script: options.file,
      trainer,
      arguments: this.effective,
      given: this.detected.parsed.given,
      findings,
    }
    return {
      ...imported,
      findings: this.told([...findings, ...releaseFindings(imported, { asked: options.trainer, read }), ...treeFindings(imported, read)]),
    }
  }

  /** Values of all flags, given or by default, into the fields they have. */
  private readFlags(builder: StageBuilder): void {
    const { given } = this.detected.parsed
    for (const name of new Set([...Object.keys(this.trainer.flags), ...given.keys()])) {
      const flag = given.get(name)
      this.effective.set(name, flag ? this.clean(flag.value) : (this.trainer.flags[name]?.default ?? null))
    }
    for (const pass of ['default', 'given'] as const) {
      for (const [name, field] of this.fields) {
        const flag = given.get(name)
        if (!this.effective.has(name) || (pass === 'given') !== (flag !== undefined)) continue
        if (flag?.unset.length && typeof flag.value === 'string' && this.trainer.flags[name]?.type !== 'str') continue
        builder.set(this.readable(name, field), this.originOf(name))
      }
    }
    const model = String(this.effective.get('model'))
    if (/^v1\.3/.test(this.trainer.version) && /^OpenSora(?:T2V|Inpaint)-L\//.test(model)) {
      builder.set({ 'model.layers': 32, 'model.heads': 24, 'model.headDim': 96 }, this.originOf('model'))
    }
    if (this.effective.get('rf_scheduler') === true) builder.set({ 'objective.name': 'rectified-flow' }, this.originOf('rf_scheduler'))
    if (this.effective.get('use_8bit_adam') === true) builder.set({ 'optimizer.name': 'adamw-8bit' }, this.originOf('use_8bit_adam'))
  }

  private readable(name: string, field: FlagField) {
    const value = this.effective.get(name) ?? null
    if (name === 'num_train_epochs' && this.effective.get('max_train_steps') !== null) return {}
    if (value === null && !['prediction_type', 'mixed_precision'].includes(name)) return this.nullable(field)
    return field.read(value)
  }

  /** Settings for a flag that is not given and has no default: only fields that know null take it. */
  private nullable(field: FlagField): Settings {
    const known = settingsOfNull.get(field)
    if (known) return known
    const settings = Object.fromEntries(Object.entries(field.read(null)).filter(([path, value]) => value === null && nullFields.has(path)))
    settingsOfNull.set(field, settings)
    return settings
  }

  private clean(value: FlagValue): FlagValue {
    if (typeof value === 'string') return this.secrets.without(value)
    return Array.isArray(value) ? value.map((each) => (typeof each === 'string' ? this.secrets.without(each) : each)) : value
  }

  /** Findings that repeat no key, whatever they quote. */
  private told(findings: readonly Finding[]): readonly Finding[] {
    if (this.secrets.found.length === 0) return findings
    return findings.map((finding) => ({
      ...finding,
      message: this.secrets.without(finding.message),
      hint: this.secrets.without(finding.hint),
      paths: finding.paths.map((path) => this.secrets.without(path)),
    }))
  }

  private originOf(name: string): Origin {
    const flag = this.detected.parsed.given.get(name)
    if (!flag) return { layer: 'trainer default', name }
    const { line, column } = flag.word
    return { layer: flag.unset.length > 0 ? 'environment' : 'script', file: this.options.file, line, column, name }
  }

  private readLaunch(builder: StageBuilder): void {
    const { launcher, options, program } = this.launch
    const place = { layer: 'script', file: this.options.file, line: program.line, column: program.column } as const
    builder.keep(launchKeys.launcher, launcher, place)
    builder.keep(launchKeys.program, this.secrets.without(program.text), place)
    builder.keep(launchKeys.version, this.trainer.version, { layer: 'trainer default' })
    for (const [name, word] of options)
      builder.keep(launchKeys.option + name, word === true ? true : this.secrets.without(word.text), place)
    const project = this.shell.variables.get('PROJECT')
    if (project && !project.value.includes('$')) {
      const { line, column } = project.place
      const origin = { layer: 'script', file: this.options.file, line, column, name: 'PROJECT' } as const
      builder.keep(launchKeys.project, this.secrets.without(project.value), origin)
    }
    this.readParallelism(builder, place)
  }

  private readParallelism(builder: StageBuilder, place: Origin): void {
    const text = (name: string) => {
      const word = this.launch.options.get(name)
      return word === undefined || word === true ? undefined : word.text
    }
    const settings = launchSettings(
      text('config_file'),
      text('deepspeed_config_file') ?? this.argument('deepspeed'),
      this.options.readFile ?? noFile,
    )
    this.missingFiles(settings.missing)
    if (settings.isForMany && settings.processes === 1 && text('num_processes') === undefined) this.oneProcess(text('config_file') ?? '')
    const machines = wholeOf(text('num_machines') ?? text('nnodes')) ?? settings.machines
    const each = wholeOf(text('nproc_per_node') ?? text('num_gpus'))
    const all = wholeOf(text('num_processes')) ?? settings.processes
    const nodes = Math.max(1, machines ?? 1)
    const processes = each ?? (all === undefined ? undefined : Math.max(1, Math.floor(all / nodes)))
    builder.set(
      { 'parallel.nodes': machines === undefined ? undefined : nodes, 'parallel.processes': processes },
      { ...place, name: 'launcher' },
    )
    builder.set({ 'parallel.zeroStage': settings.zeroStage }, { ...place, name: 'deepspeed' })
    if (settings.deepspeedClip !== undefined) {
      const clip = settings.deepspeedClip
      builder.set(clip === null || clip === 0 ? { 'clip.mode': 'none' } : { 'clip.mode': 'norm', 'clip.norm': clip }, {
        ...place,
        name: 'gradient_clipping',
      })
    }
  }

  private foldMegatron(builder: StageBuilder, read: ReadText): void {
    foldMegatron(builder, this.detected.parsed.given, read, (flag) => this.originOf(flag))
    const micro = this.shell.variables.get('GRAD_ACC_STEP')
    const steps = wholeOf(micro?.value)
    if (micro === undefined || steps === undefined || steps < 1) return
    const { line, column } = micro.place
    builder.set({ 'batch.accumulate': steps }, { layer: 'script', file: this.options.file, line, column, name: 'GRAD_ACC_STEP' })
  }

  private argument(name: string): string | undefined {
    const value = this.effective.get(name)
    return typeof value === 'string' ? value : undefined
  }

  private oneProcess(file: string): void {
    const { line, column } = this.launch.place
    this.findings.push({
      rule: 'one-process-for-many',
      severity: 'warn',
      message: `${file}: a file for several devices that starts one process, so the global batch is that of one device`,
      where: { file: this.options.file, line, column },
      paths: ['parallel.processes', 'num_processes', 'config_file', file],
      hint: 'give --num_processes, or set it in the file; upstream’s own profile went from 8 to 1 with v1.3',
    })
  }

  private missingFiles(missing: readonly string[]): void {
    const { line, column } = this.launch.place
    const reachable = this.options.readFile?.(this.launch.program.text) !== undefined
    for (const file of missing) {
      this.findings.push({
        rule: reachable ? 'missing-file' : 'file-not-read',
        severity: reachable ? 'error' : 'info',
        message: `${file}: expected a file the launcher can read, got none${reachable ? ' beside the trainer' : '; machines, processes and ZeRO stage stay at their defaults'}`,
        where: { file: this.options.file, line, column },
        paths: ['parallel.nodes', 'parallel.processes', 'config_file', file],
        hint: reachable ? 'name a file of this version' : 'give --upstream CHECKOUT, so that it can be read',
      })
    }
  }

  /** Whatever the fields cannot give back exactly stays under its flag's name, so that nothing is lost. */
  private keepRest(builder: StageBuilder): void {
    const stage = builder.peek()
    for (const [name, value] of this.effective) {
      const spec: FlagSpec | undefined = this.trainer.flags[name]
      const written = spec ? this.fields.get(name)?.write(stage, spec) : undefined
      if (sameValue(written ?? spec?.default ?? null, value) && (spec !== undefined || written !== undefined)) continue
      builder.keep(name, value, this.originOf(name))
    }
  }

  private argumentFindings(): Finding[] {
    const { file } = this.options
    return this.detected.parsed.problems
      .map((problem) => this.knownHere(problem))
      .map(({ rule, severity, word, flag, message, hint }) => ({
        rule,
        severity,
        message,
        where: { file, line: word.line, column: word.column },
        paths: [...new Set([flag, ...this.pathsOf(flag)])].filter((path) => path !== ''),
        hint,
      }))
  }

  /** A flag that the parser within reach has is no mistake, though the version that fits best has it not. */
  private knownHere(problem: ArgumentProblem): ArgumentProblem {
    if (problem.rule === 'unset-variable' && problem.severity === 'error') return this.setElsewhere(problem)
    if (problem.rule !== 'unknown-flag' || problem.severity === 'info') return problem
    const source = this.options.readFile?.(this.launch.program.text)
    if (source === undefined) return problem
    if (/parse_known_args\(/.test(source)) return passedOver(problem, this.trainer.path)
    const isThere = [`"--${problem.flag}"`, `'--${problem.flag}'`].some((text) => source.includes(text))
    if (!isThere) return problem
    const message = `--${problem.flag}: ${this.trainer.version} fits best and does not have it; the ${this.trainer.path} beside the script does`
    return { ...problem, severity: 'info', message, hint: 'what it means here is not known; it is kept' }
  }

  /** What a script does not set, one that it sources may. */
  private setElsewhere(problem: ArgumentProblem): ArgumentProblem {
    const isSourced = ({ words }: ShellCommand) => words.length > 1 && /^(?:source|\.)$/.test(words[0]?.text ?? '')
    const file = this.shell.commands.find(isSourced)?.words[1]?.text
    if (file === undefined) return problem
    return { ...problem, severity: 'warn', message: `${problem.message}; ${file}, which it sources, may` }
  }

  private pathsOf(flag: string): string[] {
    const field = this.fields.get(flag)
    return field ? Object.keys(field.read(this.effective.get(flag) ?? null)) : []
  }
}

/** Some trainers leave what they do not know to another parser; a flag that is nearly one of theirs is a mistake nobody reports. */
function passedOver(problem: ArgumentProblem, path: string): ArgumentProblem {
  const severity = problem.hint.startsWith('did you mean') ? 'warn' : 'info'
  return { ...problem, severity, message: `--${problem.flag}: the ${path} beside the script passes it over without a word` }
}

const settingsOfNull = new WeakMap<FlagField, Settings>()

const nullFields: ReadonlySet<string> = new Set([
  'init.weights',
  'init.continueFrom',
  'vae.weights',
  'text.secondEncoder',
  'data.source',
  'shape.maxPixels',
  'shape.minPixels',
  'seed',
  'checkpoint.keepLast',
  'objective.snrGamma',
  'output',
  'lora.rank',
]) // prettier-ignore

function wholeOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined
}

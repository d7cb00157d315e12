import { z } from 'zod'

/*
 * What the trainer and the supervisor say and are told. A journal line is one JSON object; the same lines go over the
 * trainer's socket. Keys are camelCase (Python maps its snake_case mechanically). `python/osplan/domain/protocol.py` is the other half:
 * both change together, with `protocolVersion`.
 */

export const protocolVersion = 1
export const formatVersion = 1
/** Longest journal line in bytes, newline included. */
export const maxLineBytes = 1_048_576

/** A number that JSON cannot hold travels as `{"$f": "nan" | "inf" | "-inf"}`. */
export const float = z.union([z.number(), z.strictObject({ $f: z.enum(['nan', 'inf', '-inf']) }).transform(({ $f }) => nonFinite[$f])])
const nonFinite = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, '-inf': Number.NEGATIVE_INFINITY } as const

const count = z.int().nonnegative()

/** Why an attempt or a run ended. */
export const endReasons = [
  'completed',
  'stopped',
  'paused',
  'data-exhausted',
  'plateau',
  'non-finite',
  'incident',
  'out-of-memory',
  'disk-full',
  'failed',
  'killed',
  'lost',
] as const
export type EndReason = (typeof endReasons)[number]

/** Fields every journal line begins with. `ts` is seconds since 1970; `attempt` counts from 1. */
export const lineHead = { seq: count, ts: z.number(), attempt: count }

/** A measurement of the held-out loss: fixed clips, noises and times. Lower is better. `zero` is the loss of predicting nothing. */
const measured = z.looseObject({
  loss: float,
  standardError: float.nullish(),
  byBin: z.array(float.nullable()).nullish(),
  psnr: float.nullish(),
  /** Mean difference to the same clips' losses with the weights the stage started from. */
  againstStart: z.looseObject({ difference: float, standardError: float.nullish() }).nullish(),
})

/** The steps an incident rests on; `values` are the newest of them as [step, value]. */
const evidence = z.looseObject({
  quantity: z.string(),
  from: count.nullable(),
  to: count.nullable(),
  values: z.array(z.tuple([count, float])),
  expected: float.nullable(),
})

/** Everything rank 0 writes to `trainer.jsonl`. */
export const trainerEvent = z.discriminatedUnion('event', [
  z.looseObject({ ...lineHead, event: z.literal('opened'), formatVersion: z.literal(formatVersion) }),
  z.looseObject({
    ...lineHead,
    event: z.literal('ready'),
    protocol: z.int(),
    worldSize: z.int().positive(),
    pids: z.array(z.int()),
    host: z.string(),
    device: z.string(),
    torch: z.string(),
    threads: z.int(),
    socket: z.string().nullable(),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('model'),
    parameters: count,
    trainable: count,
    groups: z.array(z.looseObject({ name: z.string(), parameters: count, learningRate: float })),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('loaded'),
    what: z.enum(['weights', 'vae', 'discriminator', 'checkpoint']),
    from: z.string(),
    exact: count,
    missing: z.array(z.string()),
    unexpected: z.array(z.string()),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('data'),
    clips: count,
    heldOut: count,
    dropped: z.record(z.string(), count),
    stepsPerEpoch: count,
    endsAt: count,
    endsBecause: z.string(),
  }),
  /** What of a stage's encodings is kept already; `stale` names files that changed since theirs were made. */
  z.looseObject({
    ...lineHead,
    event: z.literal('cache'),
    kind: z.enum(['latents', 'text']),
    folder: z.string(),
    wanted: count,
    lookedAt: count,
    found: count,
    unread: count,
    stale: z.array(z.string()),
  }),
  /** A kept encoding that is not used, or a cache that is no longer written. */
  z.looseObject({ ...lineHead, event: z.literal('cacheProblem'), message: z.string() }),
  /** Settings newer than the run, with the values they take: what was done before there were any. */
  z.looseObject({ ...lineHead, event: z.literal('stageFilled'), settings: z.record(z.string(), z.unknown()) }),
  /** Nothing is trained until there is room on the disk of the run; said again while it lasts. Bytes. */
  z.looseObject({ ...lineHead, event: z.literal('diskFull'), step: count, needed: count, free: count }),
  /** There is room again. */
  z.looseObject({ ...lineHead, event: z.literal('diskFree'), step: count, seconds: float }),
  z.looseObject({ ...lineHead, event: z.literal('started'), step: count, steps: count }),
  z.looseObject({
    ...lineHead,
    event: z.literal('step'),
    step: count,
    loss: float,
    learningRate: float,
    gradientNorm: float.nullish(),
    secondsPerStep: float,
    clips: count.nullish(),
    tokens: count.nullish(),
    split: z.record(z.string(), float).nullish(),
    lossByBin: z.array(float.nullable()).nullish(),
    memoryBytes: count.nullish(),
    extra: z.record(z.string(), float).nullish(),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('heldOut'),
    step: count,
    raw: measured,
    ema: measured.nullable(),
    zero: float.nullish(),
    swappedCaptions: float.nullish(),
    meanColourPsnr: float.nullish(),
  }),
  z.looseObject({ ...lineHead, event: z.literal('phase'), step: count, index: count, trainable: z.array(z.string()), parameters: count }),
  z.looseObject({
    ...lineHead,
    event: z.literal('phaseProof'),
    step: count,
    index: count,
    frozen: count,
    frozenChanged: z.array(z.string()),
    trainable: count,
    trainableUnmoved: z.array(z.string()),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('checkpoint'),
    step: count,
    path: z.string(),
    bytes: count,
    sha256: z.string(),
    seconds: float,
  }),
  z.looseObject({ ...lineHead, event: z.literal('checkpointDeleted'), step: count, path: z.string() }),
  z.looseObject({ ...lineHead, event: z.literal('latents'), shift: z.array(float), scale: z.array(float) }),
  z.looseObject({
    ...lineHead,
    event: z.literal('sample'),
    step: count,
    path: z.string(),
    prompt: z.string(),
    weights: z.enum(['ema', 'raw']),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('command'),
    id: z.string(),
    name: z.string(),
    step: count,
    status: z.enum(['applied', 'refused']),
    effective: z.unknown(),
    by: z.string().nullish(),
    reason: z.string().nullish(),
    message: z.string().nullish(),
  }),
  z.looseObject({
    ...lineHead,
    event: z.literal('incident'),
    step: count,
    /** The rule that said it. */
    kind: z.string(),
    message: z.string(),
    action: z.string(),
    severity: z.enum(['alert', 'advice']).nullish(),
    advice: z.string().nullish(),
    source: z.string().nullish(),
    evidence: evidence.nullish(),
    clips: z.array(z.string()).nullish(),
    /** Gradient norm before clipping, by module. */
    modules: z.record(z.string(), float).nullish(),
    /** Gradient values that are no number, by module. */
    overflows: z.record(z.string(), count).nullish(),
    rolledBackTo: count.nullish(),
    /** Live changes that a roll-back undid: [value it had, value it has again]. */
    undone: z.record(z.string(), z.array(z.unknown())).nullish(),
    /** Innermost places of the main threads of ranks that were stuck. */
    stacks: z.array(z.looseObject({ rank: count, at: z.string(), file: z.string() })).nullish(),
  }),
  z.looseObject({ ...lineHead, event: z.literal('skippedClips'), paths: z.array(z.string()), total: count, read: count }),
  z.looseObject({ ...lineHead, event: z.literal('heartbeat'), step: count }),
  z.looseObject({
    ...lineHead,
    event: z.literal('failed'),
    code: z.string(),
    message: z.string(),
    hint: z.string().nullish(),
    traceback: z.string().nullish(),
    rank: z.int().nullish(),
  }),
  z.looseObject({ ...lineHead, event: z.literal('finished'), step: count, reason: z.enum(endReasons), message: z.string() }),
])
export type TrainerEvent = z.output<typeof trainerEvent>

/** A process that can be told apart from a later one with the same number. `startTime` is field 22 of `/proc/PID/stat`. */
export const processIdentity = z.strictObject({ pid: z.int().positive(), startTime: z.string(), host: z.string() })
export type ProcessIdentity = z.output<typeof processIdentity>

/** Everything the supervisor (or whoever adopted the run) writes to `supervisor.jsonl`. */
export const supervisorEvent = z.discriminatedUnion('event', [
  z.looseObject({ ...lineHead, event: z.literal('opened'), formatVersion: z.literal(formatVersion) }),
  z.looseObject({
    ...lineHead,
    event: z.literal('attempt'),
    engine: z.string(),
    handle: z.unknown(),
    command: z.array(z.string()),
    continuesFrom: z.string().nullable(),
  }),
  z.looseObject({ ...lineHead, event: z.literal('adopted'), by: processIdentity }),
  /** Its job waits for machines, for the first time or again; it may start once `eligibleAt` (seconds since 1970) is past. */
  z.looseObject({ ...lineHead, event: z.literal('waiting'), why: z.string(), eligibleAt: z.number().nullable(), restarts: count }),
  z.looseObject({ ...lineHead, event: z.literal('signalled'), signal: z.string(), by: z.string() }),
  z.looseObject({
    ...lineHead,
    event: z.literal('ended'),
    reason: z.enum(endReasons),
    message: z.string(),
    exitCode: z.int().nullable(),
    signal: z.string().nullable(),
    step: count.nullable(),
    hint: z.string(),
    log: z.string().nullable(),
  }),
])
export type SupervisorEvent = z.output<typeof supervisorEvent>

/** What the trainer can be told, over its socket (JSON-RPC 2.0, method = name) or as a file in `commands/`. */
export const command = z.discriminatedUnion('name', [
  z.strictObject({ id: z.string(), name: z.literal('stop'), after: count.nullish(), by: z.string(), reason: z.string().nullish() }),
  z.strictObject({ id: z.string(), name: z.literal('pause'), by: z.string(), reason: z.string().nullish() }),
  z.strictObject({ id: z.string(), name: z.literal('checkpoint'), by: z.string(), reason: z.string().nullish() }),
  z.strictObject({ id: z.string(), name: z.literal('sample'), by: z.string(), reason: z.string().nullish() }),
  z.strictObject({ id: z.string(), name: z.literal('measure'), by: z.string(), reason: z.string().nullish() }),
  z.strictObject({ id: z.string(), name: z.literal('thaw'), by: z.string(), reason: z.string().nullish() }),
  z.strictObject({
    id: z.string(),
    name: z.literal('set'),
    path: z.string(),
    value: z.unknown(),
    by: z.string(),
    reason: z.string().nullish(),
  }),
])
export type Command = z.output<typeof command>

/**
 * `run.json`: who a run is, written once. `inputs` are the addresses of the stage resolved to files, so that the trainer
 * needs to know nothing of recipes or runs.
 */
export const runIdentity = z.strictObject({
  formatVersion: z.literal(formatVersion),
  id: z.string(),
  stage: z.string(),
  createdAt: z.string(),
  recipe: z.strictObject({ file: z.string(), stage: z.string() }).nullable(),
  verb: z.enum(['train', 'branch', 'advance', 'replay', 'import']),
  /** The run this one repeats; only of a replay. */
  replays: z.string().optional(),
  /** The log of another tool that an imported run shows. */
  source: z.string().optional(),
  /** The run and checkpoint this one starts from; `sha256` is that of the weights file. */
  parent: z.strictObject({ run: z.string(), step: count, use: z.enum(['ema', 'raw', 'best']), sha256: z.string() }).nullable(),
  inputs: z.strictObject({
    /** Safetensors file or diffusers folder with the starting weights. */
    weights: z.string().nullable(),
    /** Folder with `config.json` and weights of the autoencoder of a diffusion stage. */
    vae: z.string().nullable(),
    /** Folder of the caches; null for one beside the data. */
    cache: z.string().nullable().default(null),
    /** Checkpoint folder whose optimiser state a branch takes over; null starts a new optimiser. */
    state: z.string().nullable(),
    data: z.string().nullable(),
  }),
  /** Hash over stage, data and parent: two runs with the same one would train the same thing. */
  contentHash: z.string(),
  socket: z.string(),
})
export type RunIdentity = z.output<typeof runIdentity>

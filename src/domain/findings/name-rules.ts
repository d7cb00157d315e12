import type { Stage, StagePath } from '../stage/schema.ts'
import type { Remark, Rule } from './rule.ts'

/** What a name of a run or file says about the stage, as upstream writes such names. */
export interface NameClaims {
  readonly learningRate?: number
  readonly frames?: number
  readonly height?: number
  readonly nodes?: number
  readonly batch?: number
  readonly accumulate?: number
}

/** Reads `65x512x512_10node_bs2_lr2e-5_4img`, `29x720p`, `f65-256`, `32x8x1`, `gc2`; a part that is not there is left out. */
export function claimsOfName(name: string): NameClaims {
  const number = (pattern: RegExp) => {
    const [, text] = pattern.exec(name) ?? []
    return text === undefined ? undefined : Number(text)
  }
  const start = '(?:^|[^a-z0-9])'
  const [, machines, perMachine] = new RegExp(`${start}(?:bs)?(\\d+)x8x(\\d{1,2})(?!\\d|x)`, 'i').exec(name) ?? []
  const [, anyFrames] = /any_?x(\d+)x\d+/i.exec(name) ?? []
  const [, a, b] = new RegExp(`${start}(\\d+)x(\\d{3,4})x(\\d{3,4})(?!\\d|x)`, 'i').exec(name) ?? []
  const [, framesP, heightP] =
    new RegExp(`${start}(?:\\w*?3d_)?(\\d+)x(\\d{3,4})p`, 'i').exec(name) ?? /_(\d+)x(\d{3,4})p/i.exec(name) ?? []
  const [, framesF, sizeF] = new RegExp(`${start}f(\\d+)-(\\d{3,4})(?!\\d)`, 'i').exec(name) ?? []
  const claims = {
    learningRate: number(new RegExp(`${start}lr_?(\\d+(?:\\.\\d+)?e-?\\d+)`, 'i')),
    frames: numberOf(a ?? anyFrames ?? framesP ?? framesF),
    height: numberOf(b ?? heightP ?? sizeF),
    nodes:
      machines !== undefined ? Number(machines) : (number(new RegExp(`${start}(\\d+)nodes?(?![a-z])`, 'i')) ?? number(/_node(\d+)(?!\d)/i)),
    batch: perMachine !== undefined ? Number(perMachine) : number(new RegExp(`${start}bs(\\d{1,2})(?!\\d|x)`, 'i')),
    accumulate: number(new RegExp(`${start}gc(\\d+)(?!\\d)`, 'i')),
  }
  return Object.fromEntries(Object.entries(claims).filter(([, value]) => value !== undefined))
}

function numberOf(text: string | undefined): number | undefined {
  return text === undefined ? undefined : Number(text)
}

const facts: readonly (readonly [keyof NameClaims, StagePath, (stage: Stage) => number])[] = [
  ['learningRate', 'learningRate', (stage) => stage.learningRate],
  ['frames', 'shape.frames', (stage) => stage.shape.frames],
  ['height', 'shape.height', (stage) => stage.shape.height],
  ['nodes', 'parallel.nodes', (stage) => stage.parallel.nodes],
  ['batch', 'batch.perDevice', (stage) => stage.batch.perDevice],
  ['accumulate', 'batch.accumulate', (stage) => stage.batch.accumulate],
]

/** Where a name and the stage it belongs to say different things, all in one remark. `claimant` is the field or file that carries the name. */
function contradictions(stage: Stage, name: string, claimant: string, known: (path: StagePath) => boolean): Remark[] {
  const claims = claimsOfName(name)
  const wrong = facts.flatMap(([claim, path, read]) => {
    const said = claims[claim]
    return said === undefined || !known(path) || Math.abs(said - read(stage)) <= 1e-9 * Math.abs(said)
      ? []
      : [{ path, said, is: read(stage) }]
  })
  if (wrong.length === 0) return []
  const listed = wrong.map(({ path, said, is }) => `${path} ${said}, the stage has ${is}`).join('; ')
  return [{ message: `${claimant}: ${name} says ${listed}`, paths: [claimant, ...wrong.map(({ path }) => path)] }]
}

/** Settings of upstream that name a run for its tracker. */
const runNames = ['launch.env.PROJECT', 'exp_name', 'wandb-exp-name', 'log_name']

/** Rules over what the names of outputs and scripts promise. */
export const nameRules: readonly Rule[] = [
  {
    name: 'name-contradicts-value',
    severity: 'warn',
    hint: 'rename it, or correct the value: the next stage is found by this name',
    source: 'names of upstream’s outputs carry shape, batch, learning rate and machines',
    check: ({ side }) => {
      const { stage, origins } = side
      const known = (path: StagePath) =>
        !(path === 'parallel.nodes' || path === 'shape.frames') || origins.get(path)?.layer !== 'schema default'
      const written = stage.output === null ? [] : contradictions(stage, lastName(stage.output), 'output', known)
      const tracked = runNames.flatMap((key) => {
        const name = stage.upstream[key]
        return typeof name === 'string' ? contradictions(stage, lastName(name), `upstream.${key}`, known) : []
      })
      const file = side.trainerVersion !== undefined && /\.sh$/i.test(side.label) ? lastName(side.label).replace(/\.sh$/i, '') : undefined
      const named = file === undefined ? [] : contradictions(stage, file, 'name', known)
      return [...written, ...tracked, ...named]
    },
  },
  {
    name: 'weights-of-other-width',
    severity: 'warn',
    hint: 'list what is taken over, `stagewright plan` does, and say what may start from random numbers with init.accept',
    source: 'upstream keeps tensors whose size fits and drops the others without naming them',
    check: ({ side: { stage } }) => {
      const { weights } = stage.init
      const other =
        weights === null || stage.kind === 'vae'
          ? undefined
          : latentWidthsOfName(lastName(weights)).find((each) => each !== stage.vae.latentChannels)
      return other === undefined
        ? []
        : [
            {
              message: `init.weights: ${weights} was made for ${other} latent channels, the autoencoder has ${stage.vae.latentChannels}: layers that read or write latents do not fit`,
              paths: ['init.weights', 'vae.latentChannels', 'vae.name', 'model.class'],
            },
          ]
    },
  },
  {
    name: 'latent-width-of-checkpoint',
    severity: 'warn',
    hint: 'continue from a checkpoint of the same latent width: loading is strict',
    source: 'names of upstream’s VAE runs carry latent4, latent8',
    check: ({ side: { stage } }) => {
      const width = (text: unknown) => (typeof text === 'string' ? /latent_?(\d+)/i.exec(text)?.[1] : undefined)
      const [own, target] = [width(stage.upstream.exp_name) ?? width(stage.output), width(stage.init.continueFrom)]
      return stage.kind === 'vae' && own !== undefined && target !== undefined && own !== target
        ? [
            {
              message: `init.continueFrom: expected ${own} latent channels as the run’s name says, got a checkpoint of ${target}`,
              paths: ['init.continueFrom', 'vae.latentChannels', 'upstream.exp_name'],
            },
          ]
        : []
    },
  },
]

/** Latent widths a file of weights tells of: `dim4todim8` two of them, `latent4` one. */
function latentWidthsOfName(name: string): number[] {
  const [, from, to] = /(?:dim|latent)_?(\d+)(?:_?(?:to|2)_?(?:dim|latent)_?(\d+))?/i.exec(name) ?? []
  return [from, to].flatMap((text) => (text === undefined ? [] : [Number(text)]))
}

function lastName(path: string): string {
  return path.replace(/\/+$/, '').replace(/^.*\//, '')
}

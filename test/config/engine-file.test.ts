import { describe, expect, test } from 'vitest'
import { engineChoiceOf } from '../../src/config/engine-file.ts'

const file = (text: string) => ({ name: 'engines.yaml', bytes: `formatVersion: 1\nengines:\n${text}` })
const gpu = file('  gpu:\n    kind: slurm\n    partition: a100\n    time: 60:00\n    setup: [module load cuda]\n')

describe('the engine asked for', () => {
  test('is one of the file, with options on top', () => {
    const choice = engineChoiceOf({ name: 'gpu', set: ['time=90', 'partition=h100', 'options=[--exclusive]', 'gres=null'] }, gpu)
    expect(choice).toMatchObject({
      kind: 'slurm',
      slurm: { partition: 'h100', time: '90', setup: ['module load cuda'], options: ['--exclusive'] },
    })
  })

  test('needs no file where it is a kind', () => {
    expect(engineChoiceOf({ name: 'local', set: [] }, undefined)).toEqual({ formatVersion: 1, kind: 'local' })
    expect(engineChoiceOf({ name: 'slurm', set: ['memory=0'] }, undefined)).toMatchObject({ slurm: { memory: '0', requeue: true } })
  })

  test('is refused with its place and the nearest name', () => {
    const refused = (name: string, set: string[], from = gpu) => {
      try {
        engineChoiceOf({ name, set }, from)
        return undefined
      } catch (cause) {
        return cause
      }
    }
    expect(refused('gpuu', [])).toMatchObject({ code: 'ENGINE_UNKNOWN', hint: 'did you mean gpu?' })
    expect(refused('gpu', ['partiton=x'])).toMatchObject({ code: 'ENGINE_SETTING', hint: 'did you mean partition?' })
    expect(refused('gpu', ['time=soon'])).toMatchObject({
      message: '--slurm time=soon: time: expected minutes, HH:MM:SS or D-HH:MM:SS, got "soon"',
    })
    expect(refused('local', ['partition=x'])).toMatchObject({ code: 'ENGINE_SETTING' })
    expect(refused('gpu', [], file('  gpu:\n    kind: slurm\n    partiton: x\n'))).toMatchObject({
      code: 'CONFIG_UNKNOWN_KEY',
      message: expect.stringMatching(/^engines\.yaml:5/),
      hint: 'did you mean partition?',
    })
  })
})

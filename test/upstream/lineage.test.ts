import { expect, test } from 'vitest'
import { importScript } from '../../src/upstream/import.ts'
import { lineageFindings, lineageOf } from '../../src/upstream/lineage.ts'

function launch(name: string, output: string, init: string) {
  const text = `accelerate launch opensora/train/train_t2v_diffusers.py --dataset t2v --output_dir ${output} --pretrained ${init}`
  return importScript(text, { file: name, trainer: 'v1.3.1' })
}

test('a stage that reads what another writes is its child', () => {
  const sides = [
    ...launch('a.sh', '17x256_long_name', 't2v.pt'),
    ...launch('b.sh', '65x256_long_name', '17x256_long_name/checkpoint-10/model.safetensors'),
  ]
  expect(lineageOf(sides)).toMatchObject({ edges: [{ from: 'a.sh', to: 'b.sh', by: 'weights' }], broken: [] })
})

test('weights in a run folder that no stage writes are a broken hand-off, with the line that names them', () => {
  const sides = [
    ...launch('a.sh', '65x512_long_name', 't2v.pt'),
    ...launch('b.sh', '513x512_long_name', '221x512_long_name/checkpoint-10/model.safetensors'),
  ]
  const lineage = lineageOf(sides)
  expect(lineage.broken.map(({ node }) => node)).toEqual(['b.sh'])
  expect(lineageFindings(lineage, sides)).toEqual([
    expect.objectContaining({
      rule: 'init-not-written',
      severity: 'error',
      where: { file: 'b.sh', line: 1, column: 102 },
      paths: ['init.weights', 'pretrained', 'output', 'output_dir'],
    }),
  ])
})

test('among scripts that are no chain, weights from elsewhere are a warning', () => {
  const sides = [
    ...launch('a.sh', 'first_long_name', 't2v.pt'),
    ...launch('b.sh', 'second_long_name', 'elsewhere_long_name/checkpoint-10/model.safetensors'),
    ...launch('c.sh', 'third_long_name', 't2v.pt'),
  ]
  expect(lineageFindings(lineageOf(sides), sides).map(({ severity }) => severity)).toEqual(['warn'])
})

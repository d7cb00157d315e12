import { expect, test } from 'vitest'
import { defaultStage } from '../../src/domain/stage/fields.ts'
import { stageSchema } from '../../src/domain/stage/schema.ts'
import { exportStage } from '../../src/upstream/export.ts'
import { importScript } from '../../src/upstream/import.ts'
import type { ImportedStage } from '../../src/upstream/imported-stage.ts'

const script = `torchrun --nproc_per_node 8 pretrain_sora.py --mm-model ./files/model.json --mm-data ./files/data.json \\
  --lr 1e-5 --micro-batch-size 1 --train-iters 500 --tensor-model-parallel-size 4
`
const model = {
  frames: 121,
  allow_tf32: false,
  ae: { model_id: 'wfvae', base_channels: 160, from_pretrained: '/weights/vae', dtype: 'fp32', use_tiling: true },
  text_encoder: { from_pretrained: '/weights/t5', hub_backend: 'hf' },
  predictor: {
    model_id: 'SparseUMMDiT',
    num_layers: [2, 4, 2],
    sparse_n: [1, 4, 1],
    sparse1d: true,
    num_heads: 24,
    head_dim: 64,
    in_channels: 32,
  },
  diffusion: { model_id: 'OpenSoraPlan', weighting_scheme: 'logit_normal', use_dynamic_shifting: true },
}
const data = {
  dataset_param: {
    basic_parameters: { data_path: './data.txt' },
    preprocess_parameters: {
      num_frames: 121,
      max_height: 576,
      max_width: 1024,
      train_fps: 24,
      cfg: 0.1,
      transform: [{ trans_type: 'norm' }, { trans_type: 'crop', param: { size: [1, 2] } }],
    },
  },
  dataloader_param: { num_workers: 4, group_data: true },
}
const read =
  (files: Readonly<Record<string, string>>) =>
  (text: string): ImportedStage => {
    const [stage] = importScript(text, { file: 'pretrain.sh', trainer: 'v1.5.0', readFile: (path) => files[path] })
    if (!stage) throw new Error('no stage')
    return stage
  }
const imported = read({ './files/model.json': JSON.stringify(model), './files/data.json': JSON.stringify(data) })(script)

test('both files of a v1.5 command come back as they were read, what no setting stands for too', () => {
  const { files } = exportStage(imported.stage, 'v1.5.0')
  expect(JSON.parse(files.get('./files/model.json') ?? '')).toEqual(model)
  expect(JSON.parse(files.get('./files/data.json') ?? '')).toEqual(data)
})

test('a setting changed since stands in them, and nothing else differs', () => {
  const changed = stageSchema.parse({
    ...imported.stage,
    shape: { ...imported.stage.shape, height: 288 },
    init: { ...imported.stage.init, weights: '/mine' },
  })
  const { files, script: text } = exportStage(changed, 'v1.5.0')
  const written = JSON.parse(files.get('./files/data.json') ?? '')
  expect(written.dataset_param.preprocess_parameters).toEqual({ ...data.dataset_param.preprocess_parameters, max_height: 288 })
  const again = read(Object.fromEntries(files))(text).stage
  expect(again.shape.height).toBe(288)
})

test('a stage of ours writes what it has a name for', () => {
  const ours = stageSchema.parse({ ...defaultStage('ours'), kind: 'text-to-video', upstream: { 'launch.version': 'v1.5.0' } })
  const { files } = exportStage(ours, 'v1.5.0')
  expect(JSON.parse(files.get('./data.json') ?? '').dataset_param.preprocess_parameters).toMatchObject({ num_frames: ours.shape.frames })
})

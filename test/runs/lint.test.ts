import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Finding } from '../../src/domain/stage/origin.ts'
import { lint } from '../../src/runs/lint.ts'

/** Lints scripts written to a fresh folder; files that end in .sh are what is linted, in the order they are named. */
async function findings(files: Record<string, string>, trainer?: string): Promise<readonly Finding[]> {
  const cwd = mkdtempSync(join(tmpdir(), 'stagewright-lint-'))
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(cwd, name)), { recursive: true })
    writeFileSync(join(cwd, name), text)
  }
  const scripts = Object.keys(files).filter((name) => name.endsWith('.sh'))
  return lint(scripts, { cwd, runsFolder: join(cwd, 'runs'), trainer })
}

const t2v11 = (flags: string) => `accelerate launch opensora/train/train_t2v.py --model LatteT2V-XL/122 --dataset t2v ${flags}\n`
const t2v = (flags: string) =>
  `accelerate launch opensora/train/train_t2v_diffusers.py --dataset t2v --data list.txt --text_encoder_name_1 google/mt5-xxl ${flags}\n`
const t2v13 = (flags: string) => t2v(`--model OpenSoraT2V_v1_3-2B/122 --ae WFVAEModel_D8_4x8x8 ${flags}`)
const t2v12 = (flags: string) =>
  `accelerate launch opensora/train/train_t2v_diffusers.py --dataset t2v --data list.txt --text_encoder_name google/mt5-xxl --model OpenSoraT2V-L/122 --ae CausalVAEModel_D4_4x8x8 ${flags}\n`
const inpaint = (flags: string) =>
  `accelerate launch opensora/train/train_inpaint.py --dataset inpaint --data list.txt --model OpenSoraInpaint_v1_3-2B/122 --text_encoder_name_1 google/mt5-xxl ${flags}\n`
const vae = (flags: string) => `torchrun --nproc_per_node 8 opensora/train/train_causalvae.py --exp_name a --model_name WFVAE ${flags}\n`
const megatron = (flags: string, before = '') =>
  `${before}torchrun --nnodes 2 --nproc_per_node 8 pretrain_sora.py --micro-batch-size 1 --lr 1e-4 --save ckpt ${flags}\n`
const json = (value: unknown) => JSON.stringify(value)

interface Case {
  readonly title: string
  readonly severity: Finding['severity']
  /** A flag, field or file the finding has to point at. */
  readonly key: string
  readonly files: Record<string, string>
  readonly trainer?: string
}

const cases: readonly Case[] = [
  {
    title: 'weights in a folder no stage writes',
    severity: 'error',
    key: 'pretrained',
    files: {
      'a.sh': t2v13('--output_dir 29x480_first_stage'),
      'b.sh': t2v13('--pretrained 61x480_second_stage/checkpoint-5/model.safetensors'),
    },
    trainer: 'v1.3.1',
  },
  {
    title: 'the second stage starts from what the first started from',
    severity: 'warn',
    key: 'pretrained',
    files: {
      'a.sh': t2v11('--video_data a --use_image_num 4 --output_dir 17f_run_of_base --pretrained base.pt'),
      'b.sh': t2v11('--video_data a --use_image_num 4 --output_dir 65f_run_of_base --pretrained base.pt'),
    },
    trainer: 'v1.1',
  },
  {
    title: 'a pickle where v1.3 fails on one',
    severity: 'error',
    key: 'pretrained',
    files: { 'a.sh': t2v13('--pretrained w.pt') },
    trainer: 'v1.3.1',
  },
  {
    title: 'weights made for another latent width',
    severity: 'warn',
    key: 'init.weights',
    files: { 'a.sh': t2v('--model OpenSoraT2V-L/122 --ae CausalVAEModel_D8_4x8x8 --pretrained from_dim4todim8.safetensors') },
    trainer: 'v1.3.1',
  },
  {
    title: 'another text encoder than the stage before',
    severity: 'warn',
    key: 'text_encoder_name',
    files: {
      'a.sh': t2v12('--output_dir first_480p_run').replace('mt5', 'umt5'),
      'b.sh': t2v12('--pretrained first_480p_run/checkpoint-9/model_ema/diffusion_pytorch_model.safetensors'),
    },
    trainer: 'v1.2',
  },
  {
    title: 'another autoencoder in the same folder',
    severity: 'warn',
    key: 'ae',
    files: {
      'a.sh': t2v('--model OpenSoraT2V-L/122 --ae CausalVAEModel_D8_4x8x8 --output_dir one_long_run --resume_from_checkpoint latest'),
      'b.sh': t2v('--model OpenSoraT2V-L/122 --ae WFVAEModel_D8_4x8x8 --output_dir one_long_run --resume_from_checkpoint latest'),
    },
  },
  {
    title: 'both a start and a checkpoint',
    severity: 'info',
    key: 'resume_from_checkpoint',
    files: { 'a.sh': t2v13('--pretrained w --resume_from_checkpoint latest') },
  },
  {
    title: 'data that starts again after a checkpoint',
    severity: 'warn',
    key: 'trained_data_global_step',
    files: { 'a.sh': t2v13('--resume_from_checkpoint latest --trained_data_global_step 0') },
  },
  {
    title: 'a name that says another rate',
    severity: 'warn',
    key: 'output_dir',
    files: { 'a.sh': t2v13('--learning_rate 1e-5 --output_dir x_lr3e-5') },
  },
  {
    title: 'a project of another stage',
    severity: 'warn',
    key: 'PROJECT',
    files: { 'a.sh': `export PROJECT=65x512x512_run\n${t2v13('--num_frames 93')}` },
  },
  {
    title: 'more machines in the name than in the launcher’s file',
    severity: 'warn',
    key: 'output_dir',
    files: {
      'a.sh': t2v13('--output_dir 4node_run').replace('launch', 'launch --config_file c.yaml'),
      'c.yaml': 'num_machines: 1\nnum_processes: 8\n',
    },
  },
  { title: 'an unknown flag', severity: 'error', key: 'mim_hxw', files: { 'a.sh': t2v13('--mim_hxw 5') } },
  { title: 'a flag nothing reads', severity: 'warn', key: 'sample_rate', files: { 'a.sh': t2v13('--sample_rate 1') }, trainer: 'v1.3.1' },
  { title: 'an ignored init flag', severity: 'warn', key: 'pretrained', files: { 'a.sh': inpaint('--pretrained w') }, trainer: 'v1.3.1' },
  {
    title: 'twins that train differently',
    severity: 'warn',
    key: 'snr_gamma',
    files: { 'gpu/train_x.sh': t2v13('--snr_gamma 5'), 'npu/train_x.sh': t2v13('') },
    trainer: 'v1.3.1',
  },
  {
    title: 'sparse attention with a number its code lacks',
    severity: 'error',
    key: 'sparse_n',
    files: { 'a.sh': t2v13('--sparse1d') },
    trainer: 'v1.3.1',
  },
  {
    title: 'a fixed size with area limits',
    severity: 'error',
    key: 'force_resolution',
    files: { 'a.sh': t2v13('--force_resolution --max_hxw 65536 --min_hxw 65536') },
    trainer: 'v1.3.1',
  },
  {
    title: 'a scheduler the trainer refuses',
    severity: 'error',
    key: 'cogvideox_scheduler',
    files: { 'a.sh': inpaint('--cogvideox_scheduler') },
    trainer: 'v1.3.1',
  },
  {
    title: 'a flag given twice',
    severity: 'warn',
    key: 'lr_warmup_steps',
    files: { 'a.sh': t2v13('--lr_warmup_steps 0 --lr_warmup_steps 50') },
  },
  { title: 'a variable nobody sets', severity: 'error', key: 'num_frames', files: { 'a.sh': t2v13('--num_frames ${FRAMES}') } },
  {
    title: 'a launcher file that is not there',
    severity: 'error',
    key: 'gone.yaml',
    files: {
      'a.sh': t2v13('').replace('launch', 'launch --config_file gone.yaml'),
      'opensora/train/train_t2v_diffusers.py': '',
    },
  },
  {
    title: 'a tag without its autoencoder',
    severity: 'error',
    key: 'opensora/models/causalvideovae/model/vae',
    files: { 'a.sh': t2v13('') },
    trainer: 'v1.3.0',
  },
  {
    title: 'min-SNR where SNR is zero',
    severity: 'info',
    key: 'snr_gamma',
    files: { 'a.sh': t2v13('--snr_gamma 5 --rescale_betas_zero_snr --prediction_type v_prediction') },
  },
  {
    title: 'a raised learning rate',
    severity: 'warn',
    key: 'learning_rate',
    files: {
      'a.sh': t2v13('--learning_rate 1e-5 --output_dir first_of_two'),
      'b.sh': t2v13('--learning_rate 5e-5 --pretrained first_of_two/checkpoint-1/model'),
    },
  },
  {
    title: 'a mix of masks with two shares exchanged',
    severity: 'warn',
    key: 'mask_config',
    files: {
      'a.sh': inpaint('--mask_config masks.yaml'),
      'masks.yaml': 'mask_type_ratio_dict_video: {t2iv: 2, i2v: 16, transition: 16, continuation: 4, clear: 0, random_temporal: 2}\n',
    },
    trainer: 'v1.3.1',
  },
  {
    title: 'an average that is never updated',
    severity: 'error',
    key: 'use_ema',
    files: { 'a.sh': t2v11('--video_data a --use_ema') },
    trainer: 'v1.1',
  },
  {
    title: 'clipping in two places',
    severity: 'warn',
    key: 'max_grad_norm',
    files: {
      'a.sh': t2v13('--max_grad_norm 0.1').replace('launch', 'launch --config_file c.yaml'),
      'c.yaml': 'num_machines: 1\nnum_processes: 8\ndeepspeed_config: {deepspeed_config_file: z.json}\n',
      'z.json': json({ gradient_clipping: 1, zero_optimization: { stage: 2 } }),
    },
  },
  {
    title: 'a warm-up that starts at the top',
    severity: 'warn',
    key: 'lr-warmup-init',
    files: { 'a.sh': megatron('--lr-warmup-iters 5 --lr-warmup-init 1e-4') },
  },
  {
    title: 'no joint images at v1.1',
    severity: 'warn',
    key: 'use_image_num',
    files: { 'a.sh': t2v11('--video_data a --use_image_num 0') },
    trainer: 'v1.1',
  },
  {
    title: 'data that may be deleted',
    severity: 'error',
    key: 'video_data',
    files: { 'a.sh': t2v11('--video_data a --use_image_num 4') },
    trainer: 'v1.1',
  },
  { title: 'buckets that are dropped', severity: 'info', key: 'group_data', files: { 'a.sh': t2v13('--group_data') } },
  {
    title: 'rectified flow with shared clips',
    severity: 'error',
    key: 'sp_size',
    files: { 'a.sh': t2v13('--rf_scheduler --sp_size 4 --train_sp_batch_size 1') },
  },
  {
    title: 'a VAE flag for a progress bar',
    severity: 'warn',
    key: 'max_steps',
    files: { 'a.sh': vae('--max_steps 9') },
    trainer: 'v1.3.1',
  },
  {
    title: 'an autoencoder no stage uses',
    severity: 'warn',
    key: 'model_config',
    files: { 'a.sh': vae('--model_config x_4dim.json') },
    trainer: 'v1.3.1',
  },
  {
    title: 'frames that move the balance of a VAE’s loss',
    severity: 'warn',
    key: 'num_frames',
    files: { 'a.sh': vae('--num_frames 25'), 'b.sh': vae('--num_frames 49 --pretrained_model_name_or_path results/first') },
    trainer: 'v1.3.1',
  },
  { title: 'adaptive clipping that overrules a norm', severity: 'warn', key: 'clip-grad', files: { 'a.sh': megatron('--clip-grad 1.0') } },
  {
    title: 'shell and data file that accumulate differently',
    severity: 'warn',
    key: 'data.dataloader_param.gradient_accumulation_size',
    files: {
      'a.sh': megatron('--mm-data d.json', 'GRAD_ACC_STEP=1\n'),
      'd.json': json({ dataloader_param: { gradient_accumulation_size: 2 } }),
    },
  },
  {
    title: 'another number of heads in the shell',
    severity: 'warn',
    key: 'num-attention-heads',
    files: {
      'a.sh': megatron('--mm-model m.json --num-attention-heads 8 --hidden-size 1024'),
      'm.json': json({ predictor: { num_heads: 24, head_dim: 128 } }),
    },
  },
  {
    title: 'a model sampled with other settings',
    severity: 'warn',
    key: 'norm_elementwise_affine',
    files: {
      'a.sh': megatron('--mm-model model_opensoraplan1_6.json'),
      'model_opensoraplan1_6.json': json({ predictor: { norm_elementwise_affine: false, dropout: 0 } }),
      'inference_t2v_model1_6.json': json({ predictor: { norm_elementwise_affine: true, dropout: 0 } }),
    },
  },
  {
    title: 'lists of data that nothing reads',
    severity: 'warn',
    key: 'data_path',
    files: {
      'a.sh': megatron('--mm-data d.json'),
      'd.json': json({ dataset_param: { basic_parameters: { data_path: 'list00.txt' } } }),
      'list00.txt': '/new/part0.json\n',
      'list01.txt': '/old/part1.json\n',
    },
  },
  {
    title: 'a shape the report does not have',
    severity: 'info',
    key: 'num_frames',
    files: { 'a.sh': megatron('--mm-model m.json'), 'm.json': json({ frames: 105 }) },
  },
  { title: 'a committed key', severity: 'warn', key: 'WANDB_KEY', files: { 'a.sh': `export WANDB_KEY=${'a1'.repeat(20)}\n${t2v13('')}` } },
  {
    title: 'one process in a file for many',
    severity: 'warn',
    key: 'num_processes',
    files: {
      'a.sh': t2v13('').replace('launch', 'launch --config_file ddp.yaml'),
      'ddp.yaml': 'distributed_type: MULTI_GPU\nnum_machines: 1\nnum_processes: 1\n',
    },
  },
  {
    title: 'other data while nothing else moves',
    severity: 'warn',
    key: 'data',
    files: {
      'a.sh': t2v13('--output_dir first_of_two'),
      'b.sh': t2v13('--pretrained first_of_two/checkpoint-1/model').replace('list.txt', 'more.txt'),
    },
  },
  {
    title: 'a tokenizer from a path in the code',
    severity: 'warn',
    key: 'text_encoder_name_1',
    files: {
      'a.sh': t2v13(''),
      'opensora/dataset/__init__.py': '    tokenizer = AutoTokenizer.from_pretrained("/fixed/mt5", cache_dir=x)\n',
    },
  },
  { title: 'an area that looks like a side', severity: 'warn', key: 'max_hxw', files: { 'a.sh': inpaint('') }, trainer: 'v1.3.1' },
]

describe('what is wrong in scripts like upstream’s is found', () => {
  test.each(cases)('$title', async ({ severity, key, files, trainer }) => {
    const found = await findings(files, trainer)
    expect(found.filter((finding) => finding.severity === severity && finding.paths.includes(key)).map(({ rule }) => rule)).not.toEqual([])
  })
})

describe('what is only different is no mistake', () => {
  const loud = (found: readonly Finding[]) =>
    found.filter(({ severity }) => severity !== 'info').map(({ rule, message }) => `${rule}: ${message}`)

  test('a later stage with longer clips, other data and a lower rate', async () => {
    const found = await findings(
      {
        'a.sh': t2v13('--num_frames 29 --max_height 320 --max_width 320 --output_dir 29x320_lr1e-4 --learning_rate 1e-4'),
        'b.sh': t2v13(
          '--num_frames 93 --max_height 352 --max_width 640 --learning_rate 1e-5 --output_dir 93x352_lr1e-5 --pretrained 29x320_lr1e-4/checkpoint-5/model',
        ).replace('list.txt', 'filtered.txt'),
      },
      'v1.3.1',
    )
    expect(loud(found)).toEqual([])
  })

  test('two scripts of different kinds', async () => {
    expect(loud(await findings({ 'a.sh': t2v13(''), 'b.sh': vae('--model_config wfvae_8dim.json') }, 'v1.3.1'))).toEqual([])
  })

  test('many scripts that have nothing to do with each other', async () => {
    const files = Object.fromEntries(
      [1, 2, 3].map((place) => [`${place}.sh`, t2v13(`--learning_rate ${place}e-5 --output_dir separate_run_${place}`)]),
    )
    expect(loud(await findings(files, 'v1.3.1'))).toEqual([])
  })

  test('one process in a file for one device', async () => {
    const files = {
      'a.sh': t2v13('').replace('launch', 'launch --config_file one.yaml'),
      'one.yaml': "distributed_type: 'NO'\nnum_processes: 1\n",
    }
    expect(loud(await findings(files, 'v1.3.1'))).toEqual([])
  })

  test('a script that samples', async () => {
    expect(loud(await findings({ 'a.sh': 'python -m opensora.sample.sample_t2v --model_path x\n' }))).toEqual([])
  })

  test('mask shares of one’s own', async () => {
    const files = { 'a.sh': inpaint('--max_hxw 65536 --mask_config m.yaml'), 'm.yaml': 'mask_type_ratio_dict_video: {t2iv: 1, i2v: 1}\n' }
    expect(loud(await findings(files, 'v1.3.1'))).toEqual([])
  })
})

test('a script that is cut short and starts nothing is an error with a line', async () => {
  const found = await findings({ 'a.sh': 'accelerate launch \\ \n  opensora/train/train_t2v_diffusers.py \\\n  --dataset t2v\n' })
  expect(found.filter(({ severity }) => severity === 'error').map(({ where }) => where)).toContainEqual(
    expect.objectContaining({ file: 'a.sh' }),
  )
})

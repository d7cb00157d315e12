import { expect, test } from 'vitest'
import { importScript } from '../../src/upstream/import.ts'

const command = (flags: string, before = '') =>
  `${before}\naccelerate launch \\\n  --config_file scripts/config.yaml \\\n  opensora/train/train_t2v_diffusers.py \\\n  --dataset t2v ${flags}\n`

function only(text: string, options: { trainer?: string; readFile?: (path: string) => string | undefined } = {}) {
  const [side] = importScript(text, { file: 'train.sh', trainer: 'v1.3.1', ...options })
  if (!side) throw new Error('no launch')
  return side
}

const rules = (text: string) => only(text).findings.map(({ rule }) => rule)

test('a value remembers the line and flag that gave it, and defaults come from the trainer', () => {
  const side = only(command('\\\n  --learning_rate=2e-05 --ema_decay 0.99'))
  expect(side.stage.learningRate).toBe(2e-5)
  expect(side.origins.get('learningRate')).toEqual({ layer: 'script', file: 'train.sh', line: 6, column: 3, name: 'learning_rate' })
  expect(side.origins.get('optimizer.epsilon')).toEqual({ layer: 'trainer default', name: 'adam_epsilon' })
  expect(side.stage.optimizer.epsilon).toBe(1e-15)
})

test('exports, arithmetic, defaults of variables and lists are expanded', () => {
  const side = only(
    command('--num_frames $((4 * K + 1)) --max_height ${H:-480} "${MORE[@]}"', 'export K=7\nMORE=(--max_width 640 --cfg 0.2)'),
  )
  expect(side.stage.shape).toMatchObject({ frames: 29, height: 480, width: 640 })
  expect(side.stage.text.captionDropout).toBe(0.2)
})

test('the blanks of a substitution in a list of flags separate nothing', () => {
  const side = only(command('$MORE', 'DATA="$(cd `dirname $0`; pwd)/a.txt"\nMORE="--data $DATA --seed 3"'))
  expect(side.stage.data.source).toBe('$(cd `dirname $0`; pwd)/a.txt')
  expect(side.stage.seed).toBe(3)
})

test('a variable nobody sets is an error with a line where a number is needed, and the stage stays complete', () => {
  const side = only(command('\\\n  --num_frames ${NUM_FRAME}'))
  expect(side.findings).toContainEqual(
    expect.objectContaining({
      rule: 'unset-variable',
      severity: 'error',
      where: { file: 'train.sh', line: 6, column: 3 },
      paths: ['num_frames', 'shape.frames'],
    }),
  )
  expect(side.stage.upstream.num_frames).toBe('${NUM_FRAME}')
})

test('a blank after a backslash cuts the command, and the lines below are named as orphans', () => {
  expect(rules(command('\\ \n  --learning_rate 1e-5'))).toEqual(expect.arrayContaining(['stray-backslash-space', 'orphaned-flags']))
})

test('an unknown flag is an error that names a near one', () => {
  const [finding] = only(command('--mim_hxw 110592')).findings.filter(({ rule }) => rule === 'unknown-flag')
  expect(finding).toMatchObject({ severity: 'error', hint: 'did you mean --min_hxw?', paths: ['mim_hxw'] })
})

test('variables that double without end are an error with a line, and the rest is read', () => {
  for (const doubled of ['A=$A$A$A$A$A', 'A="$A$A$A$A$A"']) {
    const side = only(command('--max_width "$A" --seed 3', `A=xy\n${`${doubled}\n`.repeat(40)}`))
    expect(side.stage.seed).toBe(3)
    expect(side.findings[0]).toMatchObject({ rule: 'shell-syntax', severity: 'error', where: { line: 11, column: 3 } })
  }
})

test('flags of a commit between two versions are no error, unless the version is named', () => {
  const severities = (flags: string, trainer?: string) =>
    importScript(command(flags), trainer === undefined ? { file: 'train.sh' } : { file: 'train.sh', trainer }).flatMap(({ findings }) =>
      findings.filter(({ rule }) => rule === 'unknown-flag').map(({ severity, paths }) => `${severity} ${paths[0]}`),
    )
  const flags = '--skip_low_resolution --use_motion --mim_hxw 110592'
  expect(severities(flags)).toEqual(['info skip_low_resolution', 'info use_motion', 'error mim_hxw'])
  expect(severities(flags, 'v1.3.1')).toEqual(['error skip_low_resolution', 'error use_motion', 'error mim_hxw'])
  expect(severities('--skip_low_resolution')).toEqual(['error skip_low_resolution'])
})

test('a flag given twice warns only where the values differ', () => {
  const severities = (flags: string) =>
    only(command(flags))
      .findings.filter(({ rule }) => rule === 'duplicate-flag')
      .map(({ severity }) => severity)
  expect(severities('--seed 1 --seed 2')).toEqual(['warn'])
  expect(severities('--seed 1 --seed 1')).toEqual(['info'])
})

test('a committed key is reported by its place and stands nowhere else', () => {
  const key = '0123456789abcdef0123456789abcdef01234567'
  const side = only(command('--log_name x', `export WANDB_KEY="${key}"\nwandb login ${key}`), { trainer: '722fc88c' })
  expect(side.findings.filter(({ rule }) => rule === 'secret-in-script').map(({ where }) => where)).toEqual([
    { file: 'train.sh', line: 1, column: 8 },
    { file: 'train.sh', line: 2, column: 13 },
  ])
  expect(JSON.stringify([side.stage, [...side.origins], side.findings])).not.toContain(key)
})

/** Keys are put together here, so that nothing takes this file for a leak. */
const letters = 'abcdefghij0123456789klmn'

test.each([
  [
    'a variable set again',
    'export WANDB_API_KEY=@@\necho $WANDB_API_KEY\nexport WANDB_API_KEY=none',
    '0123456789abcdef0123456789abcdef01234567',
    1,
  ],
  ['a key with signs', 'export AWS_SECRET_ACCESS_KEY="@@"', 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY1', 1],
  ['a short password', 'mysql --password @@\n', 'hunter2x', 1],
  ['a comment', '\n# export HF_TOKEN=@@', `hf_${letters}`, 2],
  ['a proxy', '\nexport https_proxy=http://@@proxy.example:80', 'me:s3cret-word@', 2],
  ['a header', 'curl -H "Authorization: Bearer @@" x', 'abcdefabcdefabcd.efg', 1],
  ['JSON', `curl -d '{"api_key": "@@"}' x`, 'abcdef0123456789abcdef', 1],
  ['JSON with escapes', 'curl -d "{\\"api_key\\": \\"@@\\"}" x', 'abcdef0123456789abcdef', 1],
  ['a document', 'cat > ~/.netrc <<EOF\nmachine x\npassword: @@\nEOF', 'long-word-1', 3],
  ['a list', 'LIST=(@@)\nA="@@"', `glpat-${letters}`, 1],
  ['a loop', 'for k in @@; do wandb login $k; done', '0123456789abcdef0123456789abcdef01234567', 1],
  ['a here-string', 'wandb login <<< KEY=@@', `sk-${letters}`, 1],
])('a key in %s is found with its line, and neither stage nor findings repeat it', (_, form, key, line) => {
  const side = only(command(`--output_dir /out/${key} --wrong ${key} stray-${key}`, form.replaceAll('@@', key)))
  expect(side.findings).toContainEqual(expect.objectContaining({ rule: 'secret-in-script', where: expect.objectContaining({ line }) }))
  expect(JSON.stringify([side.stage, [...side.origins], side.findings])).not.toContain(key)
})

test('a trainer that was read from a commit is not missing there, only at the tag that lacks it', () => {
  const text =
    'accelerate launch --config_file scripts/x.yaml opensora/train/train_inpaint.py --i2v_ratio 0.4 --default_text_ratio 0.5 --noise_offset 0.02'
  const missing = (trainer: string) =>
    importScript(text, { file: 'train.sh', trainer }).flatMap(({ findings }) =>
      findings.filter(({ rule }) => rule === 'missing-file').map(({ message }) => message),
    )
  expect(missing('de7fc315')).toEqual([])
  expect(missing('v1.2.0')).toEqual(['opensora/train/train_inpaint.py: the tree of v1.2.0 does not have it'])
})

test('what a release is known for is not said of a tree within reach that shows otherwise', () => {
  const text =
    'accelerate launch opensora/train/train_t2v.py --video_data a.txt --use_ema --use_image_num 4 --pretrained t2v.pt --snr_gamma 5 --extras 1 --odd\\(flag 1'
  const told = (files: Record<string, string> | undefined) =>
    importScript(text, { file: 'train.sh', trainer: 'v1.1.0', ...(files ? { readFile: (path: string) => files[path] } : {}) }).flatMap(
      ({ findings }) => findings.filter(({ severity }) => severity !== 'info').map(({ rule, paths }) => `${rule} ${paths[0]}`),
    )
  const rules = ['unknown-flag extras', 'ema-overwrites-model use_ema', 'data-deleted-on-error video_data', 'no-effect snr_gamma']
  expect(told(undefined)).toEqual(expect.arrayContaining(rules))
  const train = 'opensora/train/train_t2v.py'
  const data = 'opensora/dataset/t2v_datasets.py'
  expect(told({ [train]: 'parser.add_argument("--use_ema")', [data]: '  os.remove(path)' })).toEqual(expect.arrayContaining(rules))
  const other = told({ [train]: 'parser.add_argument("--extras")\nema_model.step(p)\n', [data]: '# os.remove(path)' })
  for (const rule of rules.slice(0, 3)) expect(other).not.toContain(rule)
})

test('a parser within reach that passes over what it does not know refuses nothing; a misspelt flag is still told', () => {
  const train = 'opensora/train/train_t2v.py'
  const readFile = (path: string) => (path === train ? 'args, _ = parser.parse_known_args()' : undefined)
  const text = `accelerate launch ${train} --use-distributed-optimizer --use_emma`
  const found = importScript(text, { file: 'train.sh', trainer: 'v1.1.0', readFile }).flatMap(({ findings }) => findings)
  expect(found.filter(({ rule }) => rule === 'unknown-flag').map(({ severity, paths }) => `${severity} ${paths[0]}`)).toEqual([
    'info use-distributed-optimizer',
    'warn use_emma',
  ])
})

test('a file that lies in the tree within reach is not missing, whatever the tag lacks', () => {
  const config = 'scripts/accelerate_configs/multi_node_example_by_deepspeed.yaml'
  const text = `accelerate launch --config_file ${config} opensora/train/train_t2v_diffusers.py --dataset t2v`
  const missing = (files: Record<string, string>) =>
    importScript(text, { file: 'train.sh', trainer: 'v1.2.0', readFile: (path) => files[path] }).flatMap(({ findings }) =>
      findings.filter(({ rule }) => rule === 'missing-file'),
    )
  expect(missing({ [config]: 'num_machines: 1', 'opensora/train/train_t2v_diffusers.py': 'x' })).toEqual([])
  expect(missing({ 'opensora/train/train_t2v_diffusers.py': 'x' })).toHaveLength(1)
})

test('the weights an inpainting trainer reads are the stage’s, by whichever flag that release reads', () => {
  const weights = (flags: string, trainer: string) => {
    const [side] = importScript(`accelerate launch opensora/train/train_inpaint.py ${flags}`, { file: 'train.sh', trainer })
    return side?.stage.init.weights
  }
  expect(weights('--pretrained_transformer_model_path a/b.safetensors', 'v1.3.1')).toBe('a/b.safetensors')
  expect(weights('--pretrained_transformer_model_path a --pretrained b', 'v1.3.1')).toBe('a')
  expect(weights('--pretrained a/b.safetensors', '74a3a6f1')).toBe('a/b.safetensors')
})

test('arithmetic in arithmetic, defaults, octal and hexadecimal numbers are worked out as bash does', () => {
  expect(only(command('--num_frames $((4 * $((6 + 1)) + ${A:-1}))')).stage.shape.frames).toBe(29)
  expect(only(command('--num_frames $((010 + 0x10 + 5))')).stage.shape.frames).toBe(29)
})

test.each([
  ['a substitution', '--num_frames $(cat n)', '', ['info computed-value']],
  ['an argument of the script', '--num_frames $1', '', ['warn unset-variable']],
  ['a file that is sourced', '--num_frames $N', '. ./env.sh', ['warn unset-variable']],
  ['all arguments of the script', '"$@"', '', []],
])('what %s gives is no error of the script', (_, flags, before, told) => {
  const rules = ['computed-value', 'unset-variable', 'stray-argument', 'bad-value']
  const found = only(command(flags, before)).findings.filter(({ rule }) => rules.includes(rule))
  expect(found.map(({ severity, rule }) => `${severity} ${rule}`)).toEqual(told)
})

test('a byte order mark is told, and hides no command', () => {
  const [side] = importScript('\ufeffaccelerate launch opensora/train/train_t2v_diffusers.py --seed 3', { file: 'train.sh' })
  expect(side?.stage.seed).toBe(3)
  expect(side?.findings).toContainEqual(
    expect.objectContaining({ rule: 'byte-order-mark', where: { file: 'train.sh', line: 1, column: 1 } }),
  )
})

test('what is no key is no secret', () => {
  const before =
    '# token: see the wiki\nexport TOKENIZERS_PARALLELISM=false\nexport CACHE_KEY=resolution\nPASSWORD=$1\nhttp_proxy=http://proxy.example:3128'
  expect(only(command('--text_encoder_name_1 google/mt5-xxl', before)).findings.filter(({ rule }) => rule === 'secret-in-script')).toEqual(
    [],
  )
})

test('lines that end as on Windows are told once, with the first line, and read', () => {
  const text = command('\\\n  --num_frames 29').replaceAll('\n', '\r\n')
  const side = only(text)
  expect(side.stage.shape.frames).toBe(29)
  expect(side.findings.filter(({ rule }) => rule === 'carriage-return')).toMatchObject([{ severity: 'warn', where: { line: 1 } }])
})

test('the launcher’s files give machines, processes, ZeRO stage and clipping', () => {
  const files: Record<string, string> = {
    'scripts/config.yaml': 'num_machines: 2\nnum_processes: 16\ndeepspeed_config:\n  deepspeed_config_file: zero2.json\n',
    'zero2.json': '{"gradient_clipping": 0.5, "zero_optimization": {"stage": 2}}',
  }
  const { stage } = only(command('--max_grad_norm 1'), { readFile: (path) => files[path] })
  expect(stage.parallel).toMatchObject({ nodes: 2, processes: 8, zeroStage: 2 })
  expect(stage.clip).toMatchObject({ mode: 'norm', norm: 0.5 })
})

test('several launches in one file are several stages; other programs are none', () => {
  const text = `${command('--seed 1')}\npython eval.py --x 1\n${command('--seed 2')}`
  expect(importScript(text, { file: 'a.sh' }).map(({ stage }) => [stage.name, stage.seed])).toEqual([
    ['a-1', 1],
    ['a-2', 2],
  ])
  expect(importScript('echo hello', { file: 'a.sh' })).toEqual([])
})

test('the version is found from flags, and an unknown one is refused', () => {
  const v10 = 'accelerate launch opensora/train/train_t2v.py --dataset t2v --data_path a.json --video_folder b --model LatteT2V-XL/122'
  expect(importScript(v10, { file: 'a.sh' })[0]?.version).toBe('v1.0.0')
  expect(() => importScript(v10, { file: 'a.sh', trainer: 'v9' })).toThrow('v9: expected a version of upstream’s trainer')
})

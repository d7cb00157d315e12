import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import yargs from 'yargs'
import { exportCommand } from '../../src/cli/export.ts'
import { importCommand } from '../../src/cli/import.ts'
import { lintCommand } from '../../src/cli/lint.ts'
import { stagesCommand } from '../../src/cli/stages.ts'

const cwd = mkdtempSync(join(tmpdir(), 'stagewright-import-'))
const key = 'c0ffee'.repeat(7)
const launch = (flags: string) =>
  `accelerate launch \\\n  --config_file config.yaml \\\n  opensora/train/train_t2v_diffusers.py \\\n  --model OpenSoraT2V_v1_3-2B/122 \\\n  --dataset t2v ${flags}\n`
writeFileSync(join(cwd, 'config.yaml'), 'num_machines: 2\nnum_processes: 16\n')
writeFileSync(join(cwd, 'one.sh'), launch('\\\n  --learning_rate=2e-05 --output_dir first_of_the_chain'))
writeFileSync(
  join(cwd, 'two.sh'),
  launch('--learning_rate 1e-5 --pretrained first_of_the_chain/checkpoint-7/model --output_dir second_of_chain'),
)
writeFileSync(join(cwd, 'three.sh'), launch('--learning_rate 1e-5 --pretrained a_folder_nobody_writes/checkpoint-7/model'))
writeFileSync(join(cwd, 'key.sh'), `export WANDB_KEY=${key}\n${launch(`--hub_token ${key} --log_name x`)}`)
writeFileSync(join(cwd, 'empty.sh'), '')
writeFileSync(join(cwd, 'windows.sh'), launch('\\\n  --num_frames 29').replaceAll('\n', '\r\n'))
writeFileSync(join(cwd, 'binary.sh'), Buffer.from([0, 159, 146, 150, 10, 40, 7]))
writeFileSync(join(cwd, 'huge.sh'), '#'.repeat(5 * 1024 * 1024))
mkdirSync(join(cwd, 'folder.sh'))

/** Runs a command as the terminal would, with outputs apart. */
async function run(...line: string[]) {
  const [out, err]: [string[], string[]] = [[], []]
  let code: number | undefined
  const stream = (into: string[]) => ({ write: (text: string) => into.push(text), isTTY: false, columns: 80 })
  const world = { cwd, env: {}, stdout: stream(out), stderr: stream(err), setExitCode: (value: number) => (code = value) }
  const commands = [importCommand(world), exportCommand(world), lintCommand(world), stagesCommand(world)]
  const parser = commands.reduce((parsed, command) => parsed.command(command as ReturnType<typeof importCommand>), yargs(line))
  await parser.strict().exitProcess(false).fail(false).parseAsync()
  return { text: out.join(''), errors: err.join(''), code, json: () => JSON.parse(out.join('')) }
}

describe('stagewright import', () => {
  test('shows what the script says and where, and counts what it does not', async () => {
    const { text, code } = await run('import', 'one.sh', '--trainer', 'v1.3.1')
    expect(code).toBe(0)
    expect(text).toContain('one.sh (v1.3.1) one')
    expect(text).toMatch(/learningRate\s+2e-5\s+learning_rate, line 6/)
    expect(text).toMatch(/parallel\.nodes\s+2/)
  })

  test('as JSON has complete stages, origins and findings', async () => {
    const { json } = await run('import', 'one.sh', '--json')
    expect(json()).toMatchObject({
      formatVersion: 1,
      imports: [
        {
          script: 'one.sh',
          version: 'v1.3.1',
          stage: { learningRate: 2e-5, optimizer: { epsilon: 1e-15 } },
          origins: { learningRate: { layer: 'script', line: 6 }, 'optimizer.epsilon': { layer: 'trainer default' } },
        },
      ],
    })
  })

  test('lineage has nodes, edges and the hand-off that is broken', async () => {
    const { json, code } = await run('import', '--lineage', 'one.sh', 'two.sh', 'three.sh', '--json')
    expect(code).toBe(1)
    expect(json()).toMatchObject({
      formatVersion: 1,
      nodes: [{ id: 'one.sh' }, { id: 'two.sh' }, { id: 'three.sh' }],
      edges: [{ from: 'one.sh', to: 'two.sh', by: 'weights' }],
      broken: [{ node: 'three.sh' }],
    })
  })

  test.each([['import'], ['import', '--json'], ['lint'], ['lint', '--json']])('%s %s never prints a key', async (command, ...options) => {
    const { text, errors } = await run(command, 'key.sh', ...options)
    expect(text + errors).toContain('secret-in-script')
    expect(text + errors).not.toContain(key)
  })

  test('an exported stage holds no key either', async () => {
    const { text } = await run('export', 'key.sh', '--to', 'upstream@v1.3.1')
    expect(text).not.toContain(key)
  })

  test('Windows line ends change nothing', async () => {
    const { json } = await run('import', 'windows.sh', '--json')
    expect(json().imports[0].stage.shape.frames).toBe(29)
  })

  test.each(['empty.sh', 'binary.sh'])('%s is a finding with a place', async (script) => {
    const { json, code } = await run('import', script, '--json')
    expect(code).toBe(1)
    expect(json().imports).toEqual([expect.objectContaining({ script, stage: null, version: null })])
    expect(json().imports[0].findings.at(-1)).toMatchObject({ rule: 'no-launch', severity: 'error', where: { file: script, line: 1 } })
  })

  test.each(['huge.sh', 'folder.sh', 'none.sh'])('%s is refused with its limit', async (script) => {
    await expect(run('import', script)).rejects.toThrow(`${script}: expected a readable script of at most 4 MiB, got none`)
  })
})

describe('stagewright lint', () => {
  test('as JSON names rule, severity, place, keys and hint, and ends with 1 on an error', async () => {
    const { json, code } = await run('lint', 'one.sh', 'two.sh', 'three.sh', '--json')
    expect(code).toBe(1)
    expect(json().findings[0]).toMatchObject({
      rule: 'init-not-written',
      severity: 'error',
      where: { file: 'three.sh', line: 5 },
      paths: ['init.weights', 'pretrained', 'output', 'output_dir'],
      hint: expect.any(String),
    })
  })

  test('ends with 0 without an error', async () => {
    expect((await run('lint', 'one.sh', '--trainer', 'v1.3.1')).code).toBe(0)
  })
})

describe('stagewright stages and export', () => {
  test('the catalogue is listed by release', async () => {
    const { json } = await run('stages', '--trainer', 'v1.3', '--json')
    expect(json().stages.map(({ name }: { name: string }) => name)).toContain('v1.3/t2v-3')
  })

  test('a stage is shown with its script, its parent and what the report disagrees on', async () => {
    const { json } = await run('stages', 'show', 'v1.3/t2v-3', '--json')
    expect(json()).toMatchObject({ name: 'v1.3/t2v-3', after: 'v1.3/t2v-2', provenance: { confidence: 'A' }, stage: { name: 't2v-3' } })
    expect(json().findings.map(({ rule }: { rule: string }) => rule)).toContain('report-disagrees')
  })

  test('what a version has no flag for is named on the error output', async () => {
    const { text, errors } = await run('export', 'v1.3/t2v-3', '--to', 'upstream@v1.2.0')
    expect(text).toContain('--learning_rate=0.00001')
    expect(errors).toContain('opensora/train/train_t2v_diffusers.py at v1.2.0 has no flag for: trained_data_global_step')
  })
})

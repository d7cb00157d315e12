import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'
import yargs from 'yargs'
import { weightsCommand } from '../../src/cli/weights.ts'
import { float32, temporaryFolder, validFile, written } from '../weights/made-file.ts'

const python = resolve(import.meta.dirname, '../../.venv/bin/python')

async function ran(...words: string[]): Promise<{ text: string; code: number }> {
  let [text, code] = ['', 0]
  const output = {
    write: (part: string) => {
      text += part
    },
  }
  const world = {
    cwd: folder,
    env: {},
    stdout: output,
    stderr: output,
    setExitCode: (given: number) => {
      code = given
    },
    runsWorld: () => Promise.reject(new Error('no run is named')),

    serveWeb: () => Promise.reject(new Error('no page here')),
    reportOf: () => Promise.reject(new Error('no page here')),
    onInterrupt: () => () => undefined,
    packageRoot: folder,
  }
  await yargs(['weights', ...words])
    .command(weightsCommand(world))
    .exitProcess(false)
    .fail(false)
    .strict()
    .parseAsync()
  return { text, code }
}

const folder = temporaryFolder()
written(folder, 'a.safetensors', validFile({ 'blocks.0.weight': float32(1, 2), 'out.bias': float32(3) }))
written(folder, 'b.safetensors', validFile({ 'blocks.0.weight': float32(1, 2.5), 'out.bias': float32(3) }))

test('ls prints modules, totals and no more columns than 80', async () => {
  const { text } = await ran('ls', 'a.safetensors')
  expect(text).toMatchInlineSnapshot(`
    "blocks                                    2       8 B  F32  1 tensor
      0                                       2       8 B  F32  1 tensor
    out                                       1       4 B  F32  1 tensor
      bias                                    1       4 B  F32  [1]
    total                                     3      12 B  F32  2 tensors
    "
  `)
  expect(text.split('\n').every((line) => line.length <= 80)).toBe(true)
})

test('verify answers 0 for a valid file and 1 for one with a trailing byte', async () => {
  expect(await ran('verify', 'a.safetensors')).toMatchObject({ code: 0 })
  const damaged = Buffer.concat([validFile({ a: float32(1) }), Buffer.from([0])])
  written(folder, 'damaged.safetensors', damaged)
  const { text, code } = await ran('verify', 'damaged.safetensors', '--json')
  expect(code).toBe(1)
  expect(JSON.parse(text)).toMatchObject({
    formatVersion: 1,
    files: [{ findings: [{ rule: 'data-trailing', severity: 'error', offset: damaged.length - 1 }] }],
  })
})

test('diff answers 0 for the same weights and 1 with numbers for others', async () => {
  expect(await ran('diff', 'a.safetensors', 'a.safetensors')).toEqual({ text: 'same: 2 tensors\n', code: 0 })
  const { text, code } = await ran('diff', 'a.safetensors', 'b.safetensors')
  expect(code).toBe(1)
  expect(text).toMatchInlineSnapshot(`
    "module, tensors changed, distance
    blocks                                     1/1  max |Δ| 0.5, rel. L2 0.224
    blocks.0                                   1/1  max |Δ| 0.5, rel. L2 0.224

    blocks.0.weight                      max |Δ| 0.5, rel. L2 0.224

    1 different, 1 same; over what changed: max |Δ| 0.5, rel. L2 0.224
    "
  `)
})

test.skipIf(!existsSync(python))('a pickle becomes safetensors', () => {
  const source = join(folder, 'x.pt')
  execFileSync(python, ['-c', `import torch; torch.save({"w": torch.ones(2)}, ${JSON.stringify(source)})`])
  return ran('convert', 'x.pt', 'x.safetensors').then(async ({ text }) => {
    expect(text).toContain('1 tensors of the whole file')
    expect(await ran('verify', 'x.safetensors')).toMatchObject({ code: 0 })
    await expect(ran('convert', 'x.pt', 'x.safetensors')).rejects.toThrow('exists')
  })
})

test.skipIf(!existsSync(python))('check names what a model would not find', async () => {
  written(folder, 'config.json', Buffer.from(JSON.stringify({ _class_name: 'WFVAEModel', base_channels: 32, latent_dim: 4 })))
  await expect(ran('check', '.')).rejects.toThrow('expected one .safetensors file or an index')
  const { text, code } = await ran('check', 'a.safetensors')
  expect(code).toBe(1)
  expect(text).toMatch(/^0\.0 % of .* parameters load exactly: 0 exact, 0 reshaped, \d+ missing, 2 unexpected\n/)
})

test.skipIf(!existsSync(python))(
  'check finds every tensor of a complete folder, in either spelling of its filters, and not one too many',
  { timeout: 180_000 },
  async () => {
    const config = {
      _class_name: 'WFVAEModel',
      base_channels: 8,
      latent_dim: 4,
      decoder_energy_flow_hidden_size: 8,
      norm_type: 'layernorm',
    }
    const write = [
      'import json, sys',
      'from pathlib import Path',
      'from safetensors.torch import save_file',
      'from osplan.models.registry import build_model',
      'from osplan.models.wfvae_layout import in_layout',
      'config = json.loads(sys.argv[1])',
      'for layout in ("v1.3.1", "main"):',
      '    folder = Path(sys.argv[2]) / layout',
      '    folder.mkdir()',
      '    (folder / "config.json").write_text(json.dumps(config))',
      '    state = in_layout(build_model(config).state_dict(), layout, "upstream")',
      '    save_file({name: value.contiguous() for name, value in state.items()}, folder / "diffusion_pytorch_model.safetensors")',
    ].join('\n')
    execFileSync(python, ['-c', write, JSON.stringify(config), folder], { cwd: resolve(import.meta.dirname, '../../python') })
    for (const layout of ['v1.3.1', 'main']) {
      const { text, code } = await ran('check', layout, '--json')
      expect(code).toBe(0)
      const { exact, percentExact, missing, reshaped, unexpected } = JSON.parse(text)
      expect(exact.length).toBeGreaterThan(100)
      expect({ percentExact, missing, reshaped, unexpected }).toEqual({ percentExact: 100, missing: [], reshaped: [], unexpected: [] })
    }
  },
)

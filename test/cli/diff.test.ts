import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import yargs from 'yargs'
import { configCommand } from '../../src/cli/config.ts'
import { diffCommand } from '../../src/cli/diff.ts'
import { columnsOf } from '../../src/cli/terminal.ts'

const cwd = mkdtempSync(join(tmpdir(), 'stagewright-'))
const recipe = `formatVersion: 1
name: chain
stages:
  - name: one
    learningRate: 1e-3
    batch: { perDevice: 8, accumulate: 2 }
    shape: { frames: 29, height: 64, width: 64 }
  - name: two
    extends: one
    init: { weights: 'stage:one' }
    learningRate: 3e-4
    batch: { perDevice: 16, accumulate: 1 }
    shape: { frames: 93 }
  - name: same
    extends: two
`
writeFileSync(join(cwd, 'r.yaml'), recipe)
writeFileSync(join(cwd, 'other.yaml'), recipe.replace('3e-4', '2e-4').replaceAll('same', 'new'))
writeFileSync(join(cwd, 'wrong.yaml'), recipe.replace('frames: 93', 'frames: 94').replace('perDevice: 8', 'perDevise: 8'))

/** Runs a command as the terminal would; `tty` makes the output a terminal. */
async function run(line: string[], { tty = false, env = {} }: { tty?: boolean; env?: Record<string, string> } = {}) {
  const written: string[] = []
  let code: number | undefined
  const stdout = { write: (text: string) => written.push(text), isTTY: tty, columns: 80 }
  const world = { cwd, env, stdout, stderr: stdout, setExitCode: (value: number) => (code = value) }
  await yargs(line).command(diffCommand(world)).command(configCommand(world)).strict().exitProcess(false).fail(false).parseAsync()
  // How many settings there are is no matter of these tests.
  return { text: written.join('').replace(/\d+ ((?:unchanged )?settings (?:that never change )?hidden)/, 'N $1'), code }
}

describe('stagewright diff', () => {
  test('says what changed, what follows and how much is hidden', async () => {
    const { text, code } = await run(['diff', 'r.yaml#one', 'r.yaml#two'])
    expect(code).toBe(1)
    expect(text).toMatchInlineSnapshot(`
      "r.yaml#one → r.yaml#two

      Initial weights  resets-optimizer
        init.weights  null → stage:one                                resets-optimizer
            each stage fine-tunes the one before it; without its weights the stage
            starts from nothing

      Optimiser  restart
        batch.perDevice   8 → 16 clips  ×2                                     restart
        batch.accumulate  2 → 1  ×0.5                                          restart
        learningRate      1e-3 → 3e-4  ×0.3                                       live
            a stage that fine-tunes another takes smaller steps, or it leaves what was
            learnt

      Data  stale-cache
        shape.frames  29 → 93 frames  +64 frames                           stale-cache
            longer clips cost attention over more tokens; stages usually grow in
            length

      What follows
        global batch           16 clips/step
            8 × 2 = 16 × 1: global batch unchanged (per device × accumulated)
        tokens per clip        128 → 384 tokens  ×3
        tokens per step        2,048 → 6,144 tokens/step  ×3
        latent shape           8×8×8 → 24×8×8 cells
        latent cells per clip  512 → 1,536 cells  ×3
        clip length            1.208 → 3.875 s  ×3.21

      5 changes: 1 initial weights, 3 optimiser, 1 data.
      Dearest: stale-cache (shape.frames).
      N unchanged settings hidden (--full shows them)
      "
    `)
  })

  test('no line is longer than 80 columns, whatever the values', async () => {
    const long = `notes=${'very '.repeat(60)}${'x'.repeat(300)}`
    for (const line of [
      ['diff', 'defaults', 'r.yaml#two', '--full', '--set', long],
      ['diff', 'r.yaml#one', 'r.yaml#two', '--set', long],
      ['diff', '--chain', 'r.yaml'],
    ]) {
      const { text } = await run(line)
      expect(text.split('\n').filter((row) => columnsOf(row) > 80)).toEqual([])
    }
  })

  test('the same settings end with 0', async () => {
    const { text, code } = await run(['diff', 'r.yaml#two', 'r.yaml#same', '--set', 'learningRate=0.0003'])
    expect([code, text.includes('The same settings.')]).toEqual([0, true])
  })

  test('colour only on a terminal, and not with NO_COLOR', async () => {
    const line = ['diff', 'r.yaml#one', 'r.yaml#two']
    expect((await run(line)).text).not.toContain('\u001b')
    expect((await run(line, { tty: true })).text).toContain('\u001b[1m')
    expect((await run(line, { tty: true, env: { NO_COLOR: '1' } })).text).not.toContain('\u001b')
  })

  test('--json has every part, versioned', async () => {
    const diff = JSON.parse((await run(['diff', 'r.yaml#one', 'r.yaml#two', '--json'])).text)
    expect(Object.keys(diff)).toEqual(['formatVersion', 'a', 'b', 'changes', 'renames', 'derived', 'findings', 'hidden'])
    expect(diff.changes.find(({ path }: { path: string }) => path === 'shape.frames')).toEqual({
      path: 'shape.frames',
      group: 'data',
      unit: 'frame',
      impact: 'stale-cache',
      before: 29,
      after: 93,
      delta: 64,
      why: 'longer clips cost attention over more tokens; stages usually grow in length',
      origin: {
        before: { layer: 'file', file: 'r.yaml', line: 7, column: 14 },
        after: { layer: 'file', file: 'r.yaml', line: 13, column: 14 },
      },
    })
  })

  test('--patch holds the changes and the name', async () => {
    const patch = JSON.parse((await run(['diff', 'r.yaml#one', 'r.yaml#two', '--patch'])).text)
    expect(patch).toContainEqual({ op: 'replace', path: '/learningRate', value: 3e-4 })
    expect(patch).toContainEqual({ op: 'replace', path: '/name', value: 'two' })
  })

  test('--markdown is a table whose cells cannot break out', async () => {
    const { text } = await run(['diff', 'r.yaml#one', 'r.yaml#two', '--markdown', '--set', 'notes=a|b `c`'])
    expect(text).toContain('| `learningRate` <br>')
    expect(
      text
        .split('\n')
        .filter((line) => line.startsWith('| '))
        .every((line) => line.replaceAll('\\|', '').match(/\|/g)?.length === 6 || line.replaceAll('\\|', '').match(/\|/g)?.length === 4),
    ).toBe(true)
  })

  test('--chain is one table', async () => {
    const { text, code } = await run(['diff', '--chain', 'r.yaml'])
    expect(code).toBe(1)
    expect(text).toMatchInlineSnapshot(`
      "                                 one             two             same
      Initial weights
        init.weights                   null            stage:one       ·
      Optimiser
        learningRate                   1e-3            3e-4            ·
        batch.perDevice [clip]         8               16              ·
        batch.accumulate               2               1               ·
      Data
        shape.frames [frame]           29              93              ·
      What follows
        tokens per clip [tokens]       128             384             ·
        tokens per step [tokens/step]  2,048           6,144           ·
        latent shape [cells]           8×8×8           24×8×8          ·
        latent cells per clip [cells]  512             1,536           ·
        clip length [s]                1.208           3.875           ·

      N settings that never change hidden
      "
    `)
  })

  test('two recipes are compared stage by stage', async () => {
    const { text, code } = await run(['diff', 'r.yaml', 'other.yaml'])
    expect(code).toBe(1)
    expect(text).toContain('learningRate  3e-4 → 2e-4')
    expect(text).toContain('only in r.yaml: same\nonly in other.yaml: new')
    expect((await run(['diff', 'r.yaml', 'r.yaml'])).code).toBe(0)
  })

  test.each([
    [['diff', 'r.yaml#one'], 'DIFF_SIDES'],
    [['diff', 'r.yaml', 'r.yaml#one'], 'ADDRESS_STAGE'],
    [['diff', 'r.yaml#one', 'r.yaml#two', '--json', '--patch'], 'DIFF_FORM'],
    [['diff', '--chain', 'r.yaml', 'r.yaml'], 'DIFF_SIDES'],
  ])('%j is refused with %s', async (line, code) => {
    await expect(run(line)).rejects.toMatchObject({ code })
  })
})

describe('stagewright config', () => {
  test('check names every problem and ends with 1; with 2 where a file cannot be read', async () => {
    const { text, code } = await run(['config', 'check', 'r.yaml', 'wrong.yaml'])
    expect(code).toBe(1)
    expect(text).toMatchInlineSnapshot(`
      "✓ r.yaml: one, two, same
      ✗ wrong.yaml:6:14 stages[0].batch.perDevise: expected a setting, got the unknown key \`perDevise\` [CONFIG_UNKNOWN_KEY]
        hint: did you mean \`batch.perDevice\`?
      "
    `)
    expect((await run(['config', 'check', 'none.yaml'])).code).toBe(2)
    expect(JSON.parse((await run(['config', 'check', 'wrong.yaml', '--json'])).text).files[0].problems[0]).toMatchObject({
      where: { line: 6, column: 14 },
    })
  })

  test('why and show answer in JSON too', async () => {
    const why = JSON.parse((await run(['config', 'why', 'r.yaml#two', 'learningRate', '--json'])).text)
    expect(why.settings[0].layers.map(({ value }: { value: number }) => value)).toEqual([3e-4, 1e-3, 1e-4])
    const show = JSON.parse((await run(['config', 'show', 'r.yaml', '--json'])).text)
    expect(show.stages.map(({ name, parentName }: Record<string, unknown>) => [name, parentName])).toEqual([
      ['one', null],
      ['two', 'one'],
      ['same', 'two'],
    ])
  })

  test('schema is that of the files beside the recipes', async () => {
    expect(JSON.parse((await run(['config', 'schema'])).text).title).toBe('Stagewright recipe')
    expect(JSON.parse((await run(['config', 'schema', '--preset'])).text).title).toBe('Stagewright preset')
  })
})

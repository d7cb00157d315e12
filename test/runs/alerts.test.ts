import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { expect, vi } from 'vitest'
import { readAlertsFile } from '../../src/config/alerts-file.ts'
import { readConfigFile, readNamed } from '../../src/config/source.ts'
import type { Alert } from '../../src/domain/alerts.ts'
import { alertsOfHistory, watchAlerts } from '../../src/runs/alerts.ts'
import { sendAlert } from '../../src/runs/send-alert.ts'
import { fakeWorld, folderTest, followed, launched } from './fake-world.ts'

vi.setConfig({ testTimeout: 60_000 })

const alert: Alert = { rule: 'r', run: 'run', ts: 0, message: 'it\nended' }

folderTest('a run that fails is told to a command, once, also by a watcher that was away', async ({ folder }) => {
  const world = fakeWorld(folder, { stepMs: 1, dies: { step: 3, how: 'fail' } })
  const out = join(folder, 'told')
  const script = join(folder, 'tell')
  writeFileSync(script, `#!/bin/sh\ncat >> ${out}\necho >> ${out}\n`)
  chmodSync(script, 0o700)
  const file = readAlertsFile(`formatVersion: 1\nrules: [{ name: bad, on: ended }]\nsend: [{ command: [${script}] }]\n`, 'a.yaml')
  const teller = { sent: () => undefined, unsent: (_: Alert, cause: unknown) => Promise.reject(cause) }
  const watch = async (untilTold: boolean) => {
    const leaving = new AbortController()
    const done = watchAlerts(world.runsFolder, file, leaving.signal, teller, () => Date.now() / 1000)
    await vi.waitFor(() => expect(!untilTold || existsSync(out)).toBe(true), { timeout: 20_000 })
    leaving.abort()
    await done
  }
  await watch(false)
  const run = await launched(world)
  await followed(run, world)
  await watch(true)
  const lines = () => readFileSync(out, 'utf8').trim().split('\n')
  expect(lines().map((line) => JSON.parse(line))).toMatchObject([{ rule: 'bad', run: run.id }])
  expect(alertsOfHistory(run, file)).toMatchObject([{ rule: 'bad', run: run.id, message: expect.stringMatching(/^failed: /) }])
})

folderTest('a webhook gets JSON; one that refuses, redirects or is not there is an error without its path', async () => {
  const bodies: string[] = []
  const server = createServer((request, response) => {
    request.on('data', (part) => bodies.push(String(part)))
    request.on('end', () => {
      const status = Number(request.url?.slice(1, 4))
      response.writeHead(status, status === 302 ? { location: '/200' } : {}).end()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  await sendAlert(alert, { webhook: `${base}/200/secret` })
  expect(JSON.parse(bodies[0] ?? '')).toMatchObject({ run: 'run', text: 'run: it\nended (r)' })
  for (const path of ['/500/secret', '/302/secret']) {
    const refused = await sendAlert(alert, { webhook: base + path }).catch((cause: Error) => cause)
    expect(refused).toMatchObject({ code: 'ALERT_UNSENT' })
    expect(String(refused)).not.toContain('secret')
  }
  await new Promise((resolve) => server.close(resolve))
  await expect(sendAlert(alert, { webhook: `${base}/200/secret` })).rejects.toMatchObject({ code: 'ALERT_UNSENT' })
  await expect(sendAlert(alert, { command: ['/no/such/program'] })).rejects.toMatchObject({ code: 'ALERT_UNSENT' })
})

folderTest('an alerts file that is not there, or is a folder, is refused by name', ({ folder }) => {
  const refused = (file: string) => expect(() => readNamed(file, readConfigFile, { hint: 'h' }))
  refused(join(folder, 'none.yaml')).toThrow(
    expect.objectContaining({ code: 'CONFIG_FILE', message: expect.stringContaining('there is none') }),
  )
  refused(folder).toThrow(expect.objectContaining({ code: 'CONFIG_FILE', message: expect.stringContaining('it is a folder') }))
})

folderTest('an alerts file that is wrong is refused with line and column', () => {
  const wrong = (rules: string) => () => readAlertsFile(`formatVersion: 1\nrules: ${rules}\nsend: [{ mail: a@b.org }]\n`, 'a.yaml')
  expect(wrong('[{ name: x, on: never }]')).toThrow(/a\.yaml:2:/)
  expect(wrong('[{ name: x, on: ended, often: 1 }]')).toThrow(/often/)
  expect(wrong('[{ name: x, on: ended }, { name: x, on: incident }]')).toThrow(/x twice/)
  expect(() => readAlertsFile('formatVersion: 1\nrules: [{ name: x, on: ended }]\nsend: [{ webhook: "file:///etc" }]\n', 'a.yaml')).toThrow(
    /a\.yaml:3:/,
  )
})

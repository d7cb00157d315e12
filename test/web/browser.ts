import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { AxeBuilder } from '@axe-core/playwright'
import { type Browser, chromium, type Page } from 'playwright-core'

/*
 * Chromium as tests use it. STAGEWRIGHT_CHROMIUM names another browser than the system's; STAGEWRIGHT_SCREENSHOTS=1 writes the pictures of docs/.
 */

export const executablePath = process.env.STAGEWRIGHT_CHROMIUM ?? '/usr/bin/chromium'
export const sampleVideo = join(import.meta.dirname, '../fixtures/web/sample.mp4')
const pictures = join(import.meta.dirname, '../../docs/images')

export const launchedBrowser = () => chromium.launch({ executablePath, args: ['--no-sandbox'] })

/** A page that tells of everything that went wrong in it: errors, and requests that left this machine. */
export async function openPage(
  browser: Browser,
  address: string,
  options: { width?: number; isDark?: boolean } = {},
): Promise<{ page: Page; wrong: string[] }> {
  const { width = 1280, isDark = false } = options
  const context = await browser.newContext({
    viewport: { width, height: 900 },
    colorScheme: isDark ? 'dark' : 'light',
    reducedMotion: 'reduce',
  })
  const page = await context.newPage()
  page.setDefaultTimeout(30_000)
  const wrong: string[] = []
  page.on('pageerror', ({ message }) => wrong.push(message))
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().includes('ERR_')) wrong.push(message.text())
  })
  page.on('request', (request) => {
    const { protocol, hostname } = new URL(request.url())
    if (!['data:', 'blob:', 'file:'].includes(protocol) && hostname !== '127.0.0.1') wrong.push(request.url())
  })
  await page.goto(address)
  return { page, wrong }
}

export const goTo = (page: Page, route: string) => page.evaluate(`location.assign('#/${route}')`)
export const chartOf = (page: Page, title: string) => page.locator(`figure[data-chart="${title}"]`)

export async function violations(page: Page): Promise<string[]> {
  const { violations: found } = await new AxeBuilder({ page }).analyze()
  return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(' | ')}`)
}

export async function isWiderThanScreen(page: Page): Promise<boolean> {
  return page.evaluate('document.documentElement.scrollWidth > document.documentElement.clientWidth')
}

export async function picture(page: Page, name: string): Promise<void> {
  if (!process.env.STAGEWRIGHT_SCREENSHOTS) return
  mkdirSync(pictures, { recursive: true })
  writeFileSync(join(pictures, name), await page.screenshot())
}

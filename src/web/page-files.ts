import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { BuildOptions } from 'esbuild'
import { type Context, Hono } from 'hono'
import type { Known } from './guard.ts'

/** Script and style of the page, each in one file. */
export interface PageBundle {
  readonly script: string
  readonly style: string
}

export type PageFiles = () => Promise<PageBundle>

/** The built page in a folder, or one bundled from its sources; kept from the first request on. */
export function pageFiles(place: { readonly built: string } | { readonly sources: string }): PageFiles {
  let known: Promise<PageBundle> | undefined
  return () => {
    known ??= 'built' in place ? builtPage(place.built) : bundledPage(place.sources)
    known.catch(() => {
      known = undefined
    })
    return known
  }
}

async function builtPage(folder: string): Promise<PageBundle> {
  return { script: readFileSync(join(folder, 'main.js'), 'utf8'), style: readFileSync(join(folder, 'main.css'), 'utf8') }
}

async function bundledPage(folder: string): Promise<PageBundle> {
  const { build } = await import('esbuild')
  const { outputFiles = [] } = await build({ ...pageBuild(folder), write: false, outdir: folder })
  const text = (ending: string) => outputFiles.find(({ path }) => path.endsWith(ending))?.text ?? ''
  return { script: text('.js'), style: text('.css') }
}

/** How the page is bundled, here and in a release. */
export function pageBuild(folder: string): BuildOptions {
  return {
    entryPoints: [join(folder, 'main.tsx')],
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    jsx: 'automatic',
    jsxImportSource: 'preact',
    logLevel: 'warning',
  }
}

const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Stagewright</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
</head>
<body><div id="app"></div><noscript>This page needs JavaScript.</noscript><script type="module" src="/page.js"></script></body>
</html>
`

/** The page itself. It holds nothing of any run, so it needs no token. */
export function pageRoutes(files: PageFiles): Hono<Known> {
  const page = new Hono<Known>()
  const packed = new Map<string, Uint8Array<ArrayBuffer>>()
  const sent = (name: keyof PageBundle, type: string) => async (context: Context) => {
    const text = (await files())[name]
    const headers = { 'content-type': type, vary: 'accept-encoding' }
    if (!/\bgzip\b/.test(context.req.header('accept-encoding') ?? '')) return context.body(text, 200, headers)
    const bytes = packed.get(text) ?? new Uint8Array(gzipSync(text))
    packed.set(text, bytes)
    return context.body(bytes, 200, { ...headers, 'content-encoding': 'gzip' })
  }
  page.get('/', (context) => context.html(html))
  page.get('/page.js', sent('script', 'text/javascript; charset=utf-8'))
  page.get('/page.css', sent('style', 'text/css; charset=utf-8'))
  return page
}

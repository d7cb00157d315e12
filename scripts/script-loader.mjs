// Loaded before a user's script: TypeScript runs as it is, and `stagewright` is this package, wherever the script lies.
import { register } from 'node:module'
import { register as registerTypeScript } from 'tsx/esm/api'

const api = new URL('../src/api.ts', import.meta.url).href
const hook = `export function resolve(name, context, next) { return name === 'stagewright' ? { url: ${JSON.stringify(api)}, shortCircuit: true } : next(name, context) }`
register(`data:text/javascript,${encodeURIComponent(hook)}`)
registerTypeScript()

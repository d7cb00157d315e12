import { UserError } from '../domain/errors.ts'
import type { Finding } from '../domain/stage/origin.ts'
import { findingsWithoutStage } from '../upstream/import.ts'
import type { ImportedStage } from '../upstream/imported-stage.ts'
import { parseAddress, type ScriptAddress } from './address.ts'
import type { AddressContext } from './addresses.ts'
import { findScript, launchesOf } from './script-sides.ts'

/** What one script starts. One that starts no trainer has findings of its own; those of the others stand with their stages. */
export interface ImportedScript {
  readonly script: string
  readonly stages: readonly ImportedStage[]
  readonly findings: readonly Finding[]
}

/** Every launch of scripts by their addresses. Raises UserErrors ADDRESS_…, SCRIPT_FILE and UPSTREAM_…. */
export function importScripts(addresses: readonly string[], context: AddressContext): readonly ImportedScript[] {
  return addresses.map((address) => {
    const parsed = parseAddress(address)
    if (parsed.kind === 'script' || parsed.kind === 'upstream script') return importedScript(parsed, address, context)
    throw new UserError('ADDRESS_KIND', `${address}: expected a script, got a ${parsed.kind}`, { hint: 'give FILE.sh or v1.3.1:PATH' })
  })
}

export function importedScript(parsed: ScriptAddress, address: string, context: AddressContext): ImportedScript {
  const script = findScript(parsed, address, context)
  const stages = launchesOf(script, address)
  return { script: address, stages, findings: stages.length > 0 ? [] : withoutLaunch(script.text, address) }
}

/** A script that is broken or empty should have started a trainer; one that runs other programs need not. */
function withoutLaunch(text: string, address: string): readonly Finding[] {
  const { findings, commands } = findingsWithoutStage(text, address)
  const isBroken = commands === 0 || findings.some(({ severity }) => severity === 'error')
  const none: Finding = {
    rule: 'no-launch',
    severity: isBroken ? 'error' : 'info',
    message: `${address}: expected the launch of one of upstream’s trainers, got none`,
    where: { file: address, line: 1, column: 1 },
    paths: [],
    hint: isBroken ? 'a command that is cut short starts none; look at the lines named beside this' : '--trainer names a version',
  }
  return [...findings, none]
}

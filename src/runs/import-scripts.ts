import { resolve } from 'node:path'
import { UserError } from '../domain/errors.ts'
import type { ImportedStage } from '../upstream/imported-stage.ts'
import { parseAddress } from './address.ts'
import type { AddressContext } from './addresses.ts'
import { scriptSides, upstreamScriptSides } from './script-sides.ts'

/** Every launch of scripts by their addresses. Raises UserErrors ADDRESS_INVALID, SCRIPT_… and UPSTREAM_…. */
export function importScripts(
  addresses: readonly string[],
  context: AddressContext,
  trainer: string | undefined,
): readonly ImportedStage[] {
  return addresses.flatMap((address) => {
    const parsed = parseAddress(address)
    if (parsed.kind === 'script') return scriptSides(resolve(context.cwd, parsed.file), address, trainer)
    if (parsed.kind === 'upstream script')
      return upstreamScriptSides(context.upstreamCheckout, parsed.version, parsed.path, address, trainer)
    throw new UserError('ADDRESS_KIND', `${address}: expected a script, got a ${parsed.kind}`, { hint: 'give FILE.sh or v1.3.1:PATH' })
  })
}

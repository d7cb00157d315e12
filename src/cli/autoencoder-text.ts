import type { RunState } from '../domain/run/state.ts'
import type { Stage } from '../domain/stage/schema.ts'

/** What a finished autoencoder stage leaves: how well held-out clips come back against the weights it started from, and what no longer fits. */
export function autoencoderLines({ kind, init, vae }: Stage, { heldOut }: RunState): string[] {
  if (kind !== 'vae') return []
  const [first, last] = [heldOut[0], heldOut.at(-1)].map((measured) => (measured?.ema ?? measured?.raw)?.psnr ?? undefined)
  const lines: string[] = []
  if (first !== undefined && last !== undefined) {
    const gain = `${last < first ? '−' : '+'}${Math.abs(last - first).toFixed(2)} dB`
    const parent = init.weights === null ? 'random weights' : init.weights
    lines.push(`held-out clips reconstructed: ${first.toFixed(2)} dB with ${parent}, ${last.toFixed(2)} dB now (${gain})`)
  }
  if (init.weights !== null && !vae.freezeEncoder) {
    lines.push(
      `its latents are no longer those of ${init.weights}: encode caches again (stagewright data cache), and fine-tune diffusion stages on the new`,
      'latents before using them; their held-out loss at step 0 shows how far off they are',
    )
  }
  return lines
}

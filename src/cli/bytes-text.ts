/** Bytes for a person: MiB, or GiB from one on. */
export function bytesText(count: number): string {
  return count >= 2 ** 30 ? `${(count / 2 ** 30).toFixed(1)} GiB` : `${(count / 2 ** 20).toFixed(0)} MiB`
}

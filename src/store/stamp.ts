/** The beginning of an id: date and time to the second, sortable as text. */
export function stamp(now: Date): string {
  return now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-')
}

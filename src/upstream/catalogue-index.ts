/** One stage of the catalogue by its name. */
export interface CatalogueEntry {
  /** `v1.3/t2v-3`. */
  readonly name: string
  readonly version: string
  /** The recipe within the catalogue's folder, and the stage in it. */
  readonly file: string
  readonly stage: string
}

/** The catalogue's names from its files, `v1.3/t2v-3.yaml`: releases in order, within one by name, numbers as numbers. */
export function catalogueIndex(files: readonly string[]): ReadonlyMap<string, CatalogueEntry> {
  const entries = files.flatMap((file) => {
    const [, version, stage] = /^(v\d+(?:\.\d+)+)\/([A-Za-z0-9][\w.-]*)\.yaml$/.exec(file) ?? []
    return version === undefined || stage === undefined ? [] : [{ name: `${version}/${stage}`, version, file, stage }]
  })
  const order = new Intl.Collator('en', { numeric: true })
  return new Map(entries.toSorted((a, b) => order.compare(a.name, b.name)).map((entry) => [entry.name, entry]))
}

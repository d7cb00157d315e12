import type { Finding } from '../domain/stage/origin.ts'
import type { ImportedStage } from './import.ts'

export function releaseFindings(_stage: ImportedStage): Finding[] {
  return []
}

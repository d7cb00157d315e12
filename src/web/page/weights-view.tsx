import type { WeightChanges } from '../../runs/watch/weight-comparer.ts'
import { Scroll } from './scroll.tsx'
import { useAnswer } from './state.ts'
import { brief, howMany } from './words.ts'

/** What a run changed in the weights it began with, module by module. */
export function WeightsView({ id, version }: { id: string; version: number }) {
  const { value, error } = useAnswer<WeightChanges>(`/api/runs/${id}/weights`, version)
  if (error) return <p role="alert">{error}</p>
  if (!value) return <p>Comparing weights; large ones take a while…</p>
  const most = Math.max(...value.modules.map(({ distance }) => sizeOf(distance.relativeL2)), 0)
  return (
    <section>
      <h2>What this stage changed</h2>
      <p>
        {value.from} → {value.to}: {value.changed} tensors changed, {value.same} are the same.
      </p>
      <Scroll label="Change of weights by module">
        <table>
          <thead>
            <tr>
              <th>module</th>
              <th>parameters</th>
              <th>changed</th>
              <th>relative change ‖b − a‖ / ‖a‖</th>
              <th>largest change</th>
            </tr>
          </thead>
          <tbody>
            {value.modules.map(({ module, parameters, changedParameters, distance }) => (
              <tr key={module}>
                <th scope="row">{module || 'all'}</th>
                <td class="number">{howMany(parameters)}</td>
                <td class="number">{howMany(changedParameters)}</td>
                <td>
                  <meter min={0} max={most || 1} value={sizeOf(distance.relativeL2)} aria-label={`relative change of ${module || 'all'}`} />{' '}
                  {brief(sizeOf(distance.relativeL2))}
                </td>
                <td class="number">{brief(sizeOf(distance.maxAbs))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </section>
  )
}

/** A number, or infinity where it was one. */
function sizeOf(value: unknown): number {
  return typeof value === 'number' ? value : Number.POSITIVE_INFINITY
}

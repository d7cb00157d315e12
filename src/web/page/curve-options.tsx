interface CurveOptionsProps {
  /** Weight of the past per point, 0 to below 1. */
  readonly smoothing: number
  readonly onSmoothing: (smoothing: number) => void
  readonly isLog: boolean
  readonly onLog: (isLog: boolean) => void
}

/** How curves are drawn: their smoothing and their scale. */
export function CurveOptions({ smoothing, onSmoothing, isLog, onLog }: CurveOptionsProps) {
  return (
    <>
      <label>
        smoothing{' '}
        <input
          type="range"
          min="0"
          max="0.999"
          step="0.001"
          value={smoothing}
          onInput={({ currentTarget }) => onSmoothing(Number(currentTarget.value))}
        />
      </label>
      <label>
        <input type="checkbox" checked={isLog} onChange={() => onLog(!isLog)} /> log scale
      </label>
    </>
  )
}

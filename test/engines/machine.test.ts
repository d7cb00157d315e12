import { expect, test } from 'vitest'
import { gpusIn } from '../../src/engines/machine.ts'

test('GPUs are read from the lines of nvidia-smi, and nothing from its errors', () => {
  expect(gpusIn('0, GPU-a1, 81559\n1, GPU-b2, 81559\n')).toEqual([
    { name: '0', uuid: 'GPU-a1', memoryBytes: 81559 * 2 ** 20 },
    { name: '1', uuid: 'GPU-b2', memoryBytes: 81559 * 2 ** 20 },
  ])
  expect(gpusIn('NVIDIA-SMI has failed because it could not communicate with the driver\n')).toEqual([])
})

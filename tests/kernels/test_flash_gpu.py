"""Fused attention for GPUs: what it keeps, and what it refuses."""

import pytest
from flash_cases import B, H, N, array_sizes, causal, some

from lctx.kernels.flash_gpu import GpuFlash
from lctx.kernels.fused import Fused


def test_no_array_of_all_queries_and_keys_is_made():
  """The largest are strips: a row of T + S numbers for each query."""
  flash = GpuFlash(causal, 32, 32, interpret=True)
  sizes = array_sizes(flash, some(512, 1024, c=True))
  assert max(sizes) <= 2 * B * N * (512 + 1024) * max(64, 2 * H)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'queries': 96}, r'queries = 96 .* power of two on a GPU, 16 or more'),
    ({'keys': 8}, r'keys = 8 .* power of two on a GPU, 16 or more'),
    ({'queries': 32, 'keys': 64}, r'keys = 64 are more than its queries = 32'),
  ],
)
def test_sides_that_a_gpu_cannot_hold_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    Fused(**fields, platform='gpu')


def test_relative_keys_that_come_late_are_refused():
  assert GpuFlash.hindrance([some(steps=['times', 'cap', 'plus'])]) is None
  late = some(steps=['cap', 'plus r'])
  assert 'meets relative keys before all else' in GpuFlash.hindrance([late])

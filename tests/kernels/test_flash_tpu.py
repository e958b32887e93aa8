"""Fused attention for TPUs: what it keeps, and what a TPU compiler says."""

import functools
import importlib.util

import jax
import numpy as np
import pytest
from flash_cases import (
  B,
  H,
  N,
  array_sizes,
  attended,
  causal,
  defined,
  dilated,
  shapes_of,
  some,
)
from jax.experimental import topologies
from jax.experimental.pallas import tpu as pltpu

from lctx.kernels.flash_tiles import Walk
from lctx.kernels.flash_tpu import TpuFlash
from lctx.kernels.fused import Fused


def test_relative_keys_may_come_late(close):
  """After other scores, and beside those that come before all else."""
  inputs = some(steps=['times', 'plus r', 'cap', 'plus'])
  want = attended(functools.partial(defined, causal, 0), inputs)
  got = attended(TpuFlash(causal, 8, 16, interpret=True), inputs)
  jax.tree.map(close, got, want)


def test_keys_meet_the_queries_that_meet_them():
  walk = Walk(np.array([1, 2, 0]), np.array([3, 4, 0])).turned(5)
  assert walk.first.tolist() == [0, 0, 0, 1, 0]
  assert walk.end.tolist() == [0, 1, 2, 2, 0]


@pytest.mark.slow
def test_copies_of_sums_do_not_race(close, capsys):
  """On a simulated chip whose copies take time and whose memory starts bad."""
  chip = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan')
  flash = TpuFlash(causal, 8, 16, interpret=chip)
  inputs = some(c=True, steps=['times', 'cap', 'plus'])
  want = attended(functools.partial(defined, causal, 0), inputs)
  jax.tree.map(close, attended(flash, inputs), want)
  assert 'RACE' not in capsys.readouterr().out


def test_no_array_of_all_queries_and_keys_is_made():
  """Neither forward nor backward, relative terms included."""
  flash = TpuFlash(causal, 32, 64, interpret=True)
  sizes = array_sizes(flash, some(512, 1024, c=True))
  assert 32 * (32 + 64) in sizes  # inside the kernels too
  assert max(sizes) <= 2 * B * N * (H + 1) * 1024


def test_sides_that_a_chip_cannot_hold_are_refused():
  with pytest.raises(ValueError, match=r'queries = 100 .* multiple of 128'):
    Fused(100)
  with pytest.raises(ValueError, match=r'keys = 12 .* multiple of 8'):
    Fused(128, 12, interpret=True)


ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',  # ask no machine which chip it has
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def compiled(topology, flash, inputs):
  """The program of a step forward and backward, for a chip that is not here."""
  found = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  chip = jax.sharding.SingleDeviceSharding(found.devices[0])
  inputs = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=chip), inputs
  )
  step = jax.jit(functools.partial(attended.__wrapped__, flash))
  return step.trace(inputs).lower(lowering_platforms=('tpu',)).compile()


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='needs libtpu, which compiles for TPUs: pip install lctx[tpu]',
)
@pytest.mark.parametrize(
  'topology, length, width, full',
  [
    ('v5e:2x2', 2048, 64, False),
    ('v5e:2x2', 2048, 128, True),
    ('v5p:2x2x1', 2048, 64, True),
    ('v5p:2x2x1', 2048, 128, False),
    ('v5p:2x2x1', 16_384, 64, False),
  ],
)
def test_a_tpu_compiler_takes_it(topology, length, width, full, monkeypatch):
  """And finds room that grows with the length, not with its square."""
  for name, value in ENVIRONMENT.items():
    monkeypatch.setenv(name, value)
  flash = TpuFlash(dilated, rate=0.1 * full)
  program = compiled(topology, flash, shapes_of(length, width, full))
  lines = program.as_text().split('\n')
  calls = [line for line in lines if 'tpu_custom_call"' in line]
  for name in ('forward', 'of_queries', 'of_keys'):
    assert sum(f'lctx_flash_{name}' in call for call in calls) == 1
  memory = program.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert memory.temp_size_in_bytes <= 3 * held

"""What every test shares: eight CPU devices, strict shapes, tolerances."""

import gc
import importlib.metadata
import itertools
import os
from pathlib import Path

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Programs are small and run a few times: what counts is to compile fast.
    '--xla_backend_optimization_level=0',
    '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_cpu_use_fusion_emitters=false'  # newer versions have no such flag
    if importlib.metadata.version('jaxlib').startswith('0.10.')
    else '',
  ]
)

import jax
import numpy as np
import pytest

gc.freeze()
gc.set_threshold(200_000, 20, 50)  # tracing makes many objects, little garbage

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_default_matmul_precision', 'highest')

LONG = {
  'test_benchmarks',
  'test_configs',
  'test_flash_tpu',
  'test_grid',
  'test_imported',
  'test_learning',
  'test_memory_grid',
  'test_notebook',
  'test_resume',
  'test_run',
}
MAPPINGS, TESTS = Path('/proc/self/maps'), itertools.count()
PARITY = 2e-5  # float32 against published values, relative to the largest
EXACT = 1e-6  # float32, the same sums in another order


def pytest_collection_modifyitems(config, items):
  """The whole grid takes hours: it is there for those who ask for it.

  Long files begin, so that no worker is left with one when all others end.
  """
  if 'grid' not in config.option.markexpr.split():
    items[:] = [item for item in items if 'grid' not in item.keywords]
  items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def programs_go_when_they_are_many():
  """Each maps memory, and Linux grants a process 65,530 mappings.

  To count them takes longer than many a test: it is done after every tenth.
  """
  yield
  if next(TESTS) % 10:
    return
  if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b'\n') > 40_000:
    jax.clear_caches()


@pytest.fixture
def one_device(monkeypatch):
  """Published rows need not divide by the eight devices that tests have.

  And programs that run once are not worth optimising.
  """
  first = jax.devices()[:1]
  monkeypatch.setattr(jax, 'devices', lambda: first)
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def close():
  """Asserts equality within a tolerance relative to the largest entry."""

  def check(got, want, tolerance=PARITY):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    scale = max(1e-30, np.abs(want).max(initial=0.0))
    worst = np.abs(got - want).max(initial=0.0) / scale
    assert worst <= tolerance, f'{worst:.2e} > {tolerance:.0e}'

  return check

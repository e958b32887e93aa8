"""Programs with the fused kernel, compiled for an H100 that is not here."""

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path

import jax
import pytest
from flash_cases import attended, causal, dilated, shapes_of
from jax.experimental import topologies
from test_tpu_programs import MODELS, step_of

from lctx import presets
from lctx.kernels.choose import Auto
from lctx.kernels.flash_gpu import GpuFlash
from lctx.models.parts import Compute

H100 = (Path(__file__).parent / 'h100.textproto').read_text()
KERNELS = 'forward', 'of_queries', 'of_keys', 'of_rows'

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('jax_cuda12_plugin') is None,
    reason='needs what compiles for GPUs: pip install lctx[plan-gpu]',
  ),
]


@functools.cache
def gpu():
  return topologies.get_topology_desc(
    platform='cuda',
    topology_name='1x1x1',
    topology='1x1x1',
    target_config=H100,
  ).devices[0]


def compiled(step, mesh, shapes):
  sharding = jax.sharding.NamedSharding(mesh, jax.P())
  shapes = jax.tree.map(lambda x: x.update(sharding=sharding), shapes)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    lowered = jax.jit(step).trace(*shapes).lower(lowering_platforms=('cuda',))
  return lowered.compile()


def kernels(program):
  """The fused kernels that a program calls, each time it does."""
  calls = [
    line
    for line in program.as_text().split('\n')
    if 'custom_call_target="__gpu$xla.gpu.triton"' in line
  ]
  return [re.search(r'lctx_flash_(\w+)', line)[1] for line in calls]


@pytest.mark.parametrize(
  'length, width, full, fields, wanted',
  [
    (2048, 64, False, {}, KERNELS),
    (2048, 128, False, {}, KERNELS),
    (2048, 64, True, {}, KERNELS),
    (2048, 128, True, {}, KERNELS),
    (2048, 64, False, {'qr': None, 'r': None}, KERNELS[:3]),
    (2048, 128, False, {'qr': None, 'r': None}, KERNELS[:3]),
    (16_384, 64, False, {}, KERNELS),
  ],
)
def test_a_gpu_compiler_takes_it(length, width, full, fields, wanted):
  """And finds room that grows with the length, not with its square."""
  visible = dilated if full else causal
  flash = GpuFlash(visible, rate=0.1 * full)
  step = functools.partial(attended.__wrapped__, flash)
  inputs = shapes_of(length, width, full)._replace(**fields)
  program = compiled(step, jax.sharding.Mesh([gpu()], 'x'), (inputs,))
  assert sorted(kernels(program)) == sorted(wanted)
  memory = program.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  assert memory.temp_size_in_bytes <= 3 * held


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('width', [64, 128])
def test_the_chosen_kernel_is_in_the_program(name, width, monkeypatch):
  monkeypatch.setattr('lctx.kernels.choose.AT_ONCE', 1e-9)
  model = presets.transformer_xl(2, 4 * width, 4, 256, vocab=256)
  compute = Compute('bfloat16', remat_layers=True, kernel=Auto('gpu'))
  model = dataclasses.replace(model, compute=compute, **MODELS[name])

  loss, shapes = step_of(model)
  mesh = jax.sharding.Mesh([gpu()], 'x')
  program = compiled(jax.grad(loss), mesh, shapes)
  assert {'forward', 'of_queries', 'of_keys'} <= set(kernels(program))

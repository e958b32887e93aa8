"""A whole model's step, compiled for a TPU that is not here, has the kernel."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from benchmarks.memories import Size, memories, model_with
from lctx import presets
from lctx.kernels.choose import Auto
from lctx.models.heads import (
  AdaptiveQueries,
  AdaptiveScores,
  AdaptiveSpan,
  Heads,
)
from lctx.models.parts import Compute
from lctx.models.segments import scan_segments, split
from lctx.patterns import (
  BlockSparse,
  Causal,
  Chunks,
  Dilated,
  GlobalTokens,
  Sinks,
  Window,
)
from lctx.positions import Alibi, Rope, T5Bias
from lctx.types import segment_coords

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason='needs libtpu, which compiles for TPUs: pip install lctx[tpu]',
  ),
]
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',  # ask no machine which chip it has
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
MODELS = {
  'xl': {},
  'rope, grouped, capped': {
    'position': Rope(),
    'heads': Heads(keys=2, cap=30.0),
    'pattern': Window(100) | Sinks(4),
  },
  'alibi, a gap for each head': {
    'position': Alibi(),
    'pattern': Dilated(50, (1, 2, 2, 4)),
  },
  't5, span': {
    'position': T5Bias(),
    'heads': Heads(span=AdaptiveSpan(longest=256)),
    'pattern': Causal() & (Window(64) | GlobalTokens(8)),
  },
  'cap, then span': {'heads': Heads(cap=30.0, span=AdaptiveSpan(256))},
  'logits reweighted': {
    'position': Rope(),
    'heads': Heads(adaptive=AdaptiveScores()),
  },
  'queries averaged': {'heads': Heads(adaptive=AdaptiveQueries())},
  'blocks looked up': {
    'pattern': Causal() & (Window(9) | BlockSparse(8, 64, random=1, heads=4))
  },
  'chunks': {'position': Rope(), 'pattern': Causal() & Chunks(128)},
}
SMALL = Size(3, 128, 64, 128, slots=256, searched=512, tokens=1024)
MEMORIES = memories(SMALL)
# States of float32, and a search for what is best.
EXACT = 'associative', 'infini', 'gated', 'retrieval'
STOCK = {  # head widths, and what the stock kernel serves
  'rope': (64, {'position': Rope()}),
  'rope, grouped, capped, a window': (
    128,
    {
      'position': Rope(),
      'heads': Heads(keys=1, cap=30.0),
      'pattern': Window(100),
    },
  ),
}


def step_of(model):
  """A loss of two texts, and the shapes of what it takes."""

  def loss(params, carry, ids):
    at = segment_coords(jnp.zeros_like(ids))
    hidden, _, _ = model.apply({'params': params}, ids, at, carry)
    return model.apply({'params': params}, hidden, ids, method='nll').sum()

  return loss, (
    jax.eval_shape(model.init_params, jax.random.key(0)),
    jax.eval_shape(lambda: model.initial(2)),
    jax.ShapeDtypeStruct((2, 256), jnp.int32),
  )


@pytest.fixture(autouse=True)
def no_machine_is_asked(monkeypatch):
  for variable, value in ENVIRONMENT.items():
    monkeypatch.setenv(variable, value)


def steps_of(model):
  """A loss of two segments, the second of which teaches the first."""

  def loss(params, carry, ids):
    def one(carry, tokens):
      at = segment_coords(jnp.zeros_like(tokens))
      given = {'params': params}
      hidden, carry, penalty = model.apply(given, tokens, at, carry)
      nll = model.apply(given, hidden, tokens, method='nll')
      return carry, nll.sum() + penalty.sum()

    cut = split(ids, SMALL.segment)
    return scan_segments(one, carry, cut, gradient_segments=1)[1].sum()

  return loss, step_of(model)[1]


def program_of(model, of=step_of):
  """The gradient of its loss, compiled for a TPU: as text."""
  found = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')
  mesh = jax.sharding.Mesh(found.devices[:1], 'x')
  chip = jax.sharding.NamedSharding(mesh, jax.P())

  loss, shapes = of(model)
  shapes = jax.tree.map(lambda x: x.update(sharding=chip), shapes)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    traced = jax.jit(jax.grad(loss)).trace(*shapes)
    lowered = traced.lower(lowering_platforms=('tpu',))
  return lowered.compile().as_text()


def model_of(fields, width=256, num_heads=4, **sizes):
  model = presets.transformer_xl(2, width, num_heads, 256, vocab=256, **sizes)
  compute = Compute('bfloat16', remat_layers=True, kernel=Auto('tpu'))
  return dataclasses.replace(model, compute=compute, **fields)


@pytest.mark.parametrize('name', MODELS)
def test_the_chosen_kernel_is_in_the_program(name):
  text = program_of(model_of(MODELS[name]))
  for part in ('forward', 'of_queries', 'of_keys'):
    assert f'lctx_flash_{part}' in text
  assert 'splash_mha' not in text


@pytest.mark.parametrize('name', STOCK)
def test_the_stock_kernel_is_in_the_program_where_it_serves(name):
  head_width, fields = STOCK[name]
  model = model_of(fields, 2 * head_width, num_heads=2, ffn_width=128)
  with jax.default_matmul_precision('default'):  # as outside of tests
    text = program_of(model)
  for part in ('fwd', 'dq', 'dkv'):
    assert f'splash_mha_{part}_segmented' in text
  assert 'lctx_flash' not in text


@pytest.mark.parametrize('name', MEMORIES)
def test_every_memory_is_taught_on_a_tpu(name):
  model = model_with(MEMORIES[name], SMALL, 256)
  compute = Compute('bfloat16', kernel=Auto('tpu'))
  model = dataclasses.replace(model, compute=compute)
  with jax.default_matmul_precision('default'):  # as outside of tests
    text = program_of(model, steps_of)
  exact = 'operand_precision={highest,highest}' in text
  assert exact == name.startswith(EXACT)

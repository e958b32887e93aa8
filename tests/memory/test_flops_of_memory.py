"""What memories say they cost is what their programs multiply."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
import tiny
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from lctx.memory import (
  Associative,
  Compressive,
  DenseRetrieval,
  Dual,
  GatedDelta,
  GatedLinear,
  HeadGate,
  Infini,
  LongMemory,
  Melodi,
  Memory,
  MostUsed,
  Retrieval,
  Single,
  SinkCache,
  StateCell,
  Tokens,
  XLCache,
)
from lctx.positions import NoPosition
from lctx.training.flops import count, keys_seen
from lctx.types import segment_coords

SEGMENT, WIDTH = 48, 64
MEMORIES = {
  'none': Memory(),
  'xl': XLCache(48),
  'compressive': Compressive(48, 32, 4),
  'compressive, most used': Compressive(48, 32, 4, MostUsed()),
  'tokens': Tokens(8),
  'associative': Associative(8, 16),
  'state cell': StateCell(24),
  'state cell, dual': StateCell(24, Dual()),
  'state cell, single': StateCell(24, Single()),
  'infini': Infini(),
  'infini, delta': Infini(delta=True),
  'gated delta': GatedDelta(chunk=16),
  'gated linear, beside': GatedLinear(16, gate=HeadGate()),
  'retrieval': Retrieval(128, 4),
  'dense retrieval': DenseRetrieval(128),
  'sinks': SinkCache(64, 4),
  'melodi': Melodi(SEGMENT, 8, LongMemory(64, 8)),
}


def multiplied(jaxpr) -> float:
  """Operations of all products, in loops as often as they run."""
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      shape = eqn.invars[0].aval.shape
      inner = math.prod(shape[i] for i in contracted)
      total += 2 * inner * math.prod(eqn.outvars[0].aval.shape)
    elif eqn.primitive.name == 'scan':
      total += eqn.params['length'] * multiplied(eqn.params['jaxpr'].jaxpr)
    elif eqn.primitive.name == 'cond':
      total += max(multiplied(b.jaxpr) for b in eqn.params['branches'])
    else:
      assert eqn.primitive.name != 'while'
      for inner in jaxprs_in_params(eqn.params):
        total += multiplied(inner)
  return total


@pytest.mark.parametrize('name', MEMORIES)
def test_operations_are_those_of_the_program(name):
  """Of a segment; a mask saves nothing here, where all keys are met."""
  memory = MEMORIES[name]
  model = dataclasses.replace(
    tiny.transformer_xl(
      depth=1, width=WIDTH, ffn_width=4 * WIDTH, num_heads=4, pre_norm=True
    ),
    memory=memory,
    position=NoPosition(),
  ).for_inference()
  params = jax.eval_shape(model.init_params, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((1, SEGMENT), jnp.int32)

  def read(params, ids):
    at = segment_coords(jnp.zeros_like(ids))
    hidden, carry, _ = model.apply(
      {'params': params}, ids, at, model.initial(1)
    )
    return hidden, carry

  jaxpr = jax.make_jaxpr(read)(params, ids).jaxpr
  needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # no penalty
  found = multiplied(needed)
  flops = count(model, SEGMENT)
  length = SEGMENT + sum(model.memory.around.counts)
  (run,) = model.runs
  wanted = flops.forward - flops.vocabulary
  if name == 'gated linear, beside':
    wanted += 2 * WIDTH**2  # queries, which the compiler finds to be there
  if flops.attention:
    near, *_ = run.memory.patterns(model.pattern)
    seen = keys_seen(near, 4, length, run.memory.length)
    wanted += flops.attention * ((length + run.memory.length) / seen - 1)
  assert found / SEGMENT == pytest.approx(wanted, rel=0.02)

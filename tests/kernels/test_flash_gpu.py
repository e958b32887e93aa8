"""Fused attention for GPUs is as defined, step by step on any platform."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_flash_tpu import (
  REACHED,
  WALK,
  B,
  H,
  N,
  attended,
  causal,
  defined,
  dilated,
  everything,
  planned,
  seeds,
  some,
  staircase,
  window,
)

from lctx.kernels.flash_gpu import Flash, hindrance
from lctx.kernels.fused import Fused

CASES = {
  'plain': (causal, (16, 8), {'relative': False}, {}),
  'window': (window, (8, 8), {}, WALK),
  'staircase': (staircase, (16, 8), {'c': True, 'group': 2}, {}),
  'everything': (everything, (16, 4), {'group': 4}, {}),
  'by head': (dilated, (16, 16), {'relative': False, 'c': True}, {}),
  'one query': (causal, (8, 8), {'queries': 1, 'c': True}, {}),
  'capped': (window, (8, 8), {'queries': 16, 'keys': 16, 'steps': ['cap']}, {}),
  'dropped': (causal, (8, 8), {'group': 2, 'steps': ['cap']}, {'rate': 0.3}),
  'added after the cap': (causal, (16, 8), {'steps': ['cap', 'plus']}, {}),
  'reweighted': (
    causal,
    (8, 8),
    {'group': 2, 'c': True, 'steps': ['times']},
    {},
  ),
  'all steps, dropped': (
    window,
    (8, 8),
    {'relative': False, 'steps': ['times', 'cap', 'plus']},
    {'rate': 0.3, **WALK},
  ),
  'all steps, relative': (
    staircase,
    (16, 4),
    {'c': True, 'steps': ['times', 'cap', 'plus']},
    {},
  ),
  'looked up for each head': (planned, (16, 8), {'tables': N}, {}),
  'looked up for all heads': (planned, (8, 8), {'tables': 1}, {}),
}


@pytest.mark.parametrize('case', CASES)
def test_attention_and_all_its_gradients_are_as_defined(case, close):
  visible, sides, given, fields = CASES[case]
  flash = Flash(visible, *sides, **fields, interpret=True)
  inputs = some(**given)
  definition = functools.partial(defined, visible, flash.rate)
  want = attended(definition, inputs)
  if flash.rate:
    inputs = inputs._replace(seeds=seeds())
  jax.tree.map(close, attended(flash, inputs), want)


def test_blocks_of_keys_out_of_bounds_are_not_met(close):
  flash = Flash(everything, 8, 8, first=(2, 0), end=(4, 0), interpret=True)
  y = tiny.quick_jit(flash)(some())
  second = some()._replace(
    **{name: getattr(some(), name)[:, 16:] for name in 'kv'}
  )
  second = second._replace(k_place=some().k_place[..., 16:], r=some().r[16:])
  want = defined(everything, 0, second)
  close(y[:, :8], want[:, :8])
  assert not y[:, 8:].any()


def test_nothing_met_is_nothing_moved():
  nothing = {'first': (0, 0), 'end': (0, 0)}
  flash = Flash(everything, 8, 8, **nothing, interpret=True)
  inputs = some(c=True, steps=['times', 'cap', 'plus'])
  assert not any(a.any() for a in jax.tree.leaves(attended(flash, inputs)))


def test_short_numbers_give_nearly_the_same_and_stay_short(close):
  flash, inputs = Flash(causal, 8, 8, interpret=True), some(group=2)
  short = {name: getattr(inputs, name) for name in REACHED[:5]}
  short = {name: a.astype(jnp.bfloat16) for name, a in short.items()}
  y, grads = attended(flash, inputs._replace(**short))
  want = attended(functools.partial(defined, causal, 0), inputs)
  for a, b in zip(*map(jax.tree.leaves, ((y, grads), want)), strict=True):
    assert a.dtype == jnp.bfloat16
    close(np.float32(a), b, 0.05)  # eight bits of mantissa


def test_a_query_that_sees_nothing_gets_zeros():
  flash = Flash(causal, 8, 8, interpret=True)
  inputs = some(c=True, empty=True, steps=['times', 'cap', 'plus'])
  assert not any(a.any() for a in jax.tree.leaves(attended(flash, inputs)))


def test_no_array_of_all_queries_and_keys_is_made():
  """The largest are strips: a row of T + S numbers for each query."""
  flash, inputs = Flash(causal, 32, 32, interpret=True), some(512, 1024, c=True)
  step = functools.partial(attended.__wrapped__, flash)
  program = str(jax.make_jaxpr(step)(inputs))
  shapes = re.findall(r'[fi]32\[([\d,]+)\]', program)
  sizes = [math.prod(map(int, shape.split(','))) for shape in shapes]
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
  assert hindrance([some(steps=['times', 'cap', 'plus'])]) is None
  late = some(steps=['cap', 'plus r'])
  assert 'meets relative keys before all else' in hindrance([late])

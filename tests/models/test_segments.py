"""Segments with a memory are one pass under a mask, however they are cut."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.memory.xl import XLCache
from lctx.models.segments import merge, scan_segments, split
from lctx.patterns.causal import Causal, Staircase
from lctx.patterns.window import Window
from lctx.positions.xl import LearnedRelative
from lctx.types import segment_coords

LENGTH, SEGMENT = 20, 5
RAGGED = (5, 1, 5, 1, 1, 5, 1, 1)
KINDS = {
  'post-norm': {},
  'pre-norm': {'per_layer_biases': True, 'pre_norm': True, 'clamp': 4},
  'learned': {'position': LearnedRelative(9)},
}
kinds = pytest.mark.parametrize('kind', KINDS)


def pair(kind='post-norm', memory_length=4, **fields):
  model = tiny.transformer_xl(
    memory_length=memory_length, **fields, **KINDS[kind]
  )
  return model, tiny.large_params(model)


@functools.partial(tiny.quick_jit, static_argnums=(0, 3))
def one_pass(model, params, tokens, pattern, segment):
  """The whole text as one segment without memory, under `pattern`.

  `segment` [n] is where the segment of each token would start.
  """
  memory = XLCache(0)
  model = dataclasses.replace(model, pattern=pattern, memory=memory)
  at = segment_coords(jnp.zeros_like(tokens))
  at = at.replace(segment=jnp.broadcast_to(segment[None], tokens.shape))
  carry = model.initial(tokens.shape[0])
  return model.apply({'params': params}, tokens, at, carry)[0]


@functools.partial(tiny.quick_jit, static_argnums=(0, 3))
def scanned(model, params, tokens, segment):
  def step(carry, tokens):
    document = jnp.zeros_like(tokens)
    hidden, carry = tiny.segment_of(model, params, tokens, document, carry)
    return carry, hidden

  carry = model.initial(tokens.shape[0])
  carry, hidden = scan_segments(step, carry, split(tokens, segment))
  return merge(hidden), carry


def starts_of(lengths):
  starts = np.cumsum([0, *lengths[:-1]])
  return jnp.asarray(np.repeat(starts, lengths), jnp.int32)


@kinds
def test_a_scan_over_segments_is_the_loop(kind, close):
  model, params = pair(kind)
  ids = tiny.some_ids(2, LENGTH)
  hidden, carry = scanned(model, params, ids, SEGMENT)
  want, last = tiny.loop(model, params, ids, [SEGMENT] * 4)
  close(hidden, want, 1e-6)
  jax.tree.map(lambda a, b: close(a, b, 1e-6), carry, last)


def test_a_scan_over_segments_of_one_token_is_the_loop(close):
  model, params = pair()
  ids = tiny.some_ids(2, LENGTH)
  hidden, _ = scanned(model, params, ids, 1)
  close(hidden, tiny.loop(model, params, ids, [1] * LENGTH)[0], 1e-6)


@kinds
def test_a_memory_of_everything_is_one_causal_pass(kind, close):
  model, params = pair(kind, memory_length=LENGTH)
  ids = tiny.some_ids(2, LENGTH)
  want = one_pass(model, params, ids, Causal(), starts_of([LENGTH]))
  for lengths in ([1] * LENGTH, RAGGED):
    close(tiny.loop(model, params, ids, lengths)[0], want)


@kinds
def test_same_length_is_one_pass_under_a_band(kind, close):
  model, params = pair(kind, memory_length=4, same_length=True)
  ids = tiny.some_ids(2, LENGTH)
  want = one_pass(model, params, ids, Window(3), starts_of([LENGTH]))
  for lengths in ([1] * LENGTH, RAGGED):
    close(tiny.loop(model, params, ids, lengths)[0], want)


@kinds
def test_a_memory_is_one_pass_under_a_staircase(kind, close):
  model, params = pair(kind)
  ids = tiny.some_ids(2, LENGTH)
  results = []
  for lengths in ([1] * LENGTH, RAGGED):
    want = one_pass(model, params, ids, Staircase(4), starts_of(lengths))
    close(tiny.loop(model, params, ids, lengths)[0], want)
    results.append(want)
  assert np.abs(results[0] - results[1]).max() > 1e-2


def test_no_memory_is_segments_that_stand_alone(close):
  model, params = pair(memory_length=0)
  ids = tiny.some_ids(2, LENGTH)
  together, _ = tiny.loop(model, params, ids, [SEGMENT] * 4)
  for start in range(0, LENGTH, SEGMENT):
    part = ids[:, start : start + SEGMENT]
    alone, _ = tiny.loop(model, params, part, [SEGMENT])
    close(together[:, start : start + SEGMENT], alone, 1e-6)


def test_runs_must_divide_the_segments():
  with pytest.raises(ValueError, match=r'data\.segments = 4 is no multiple'):
    scan_segments(None, None, jnp.zeros((4, 1)), gradient_segments=2)

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
from lctx.patterns.causal import Causal, Staircase, Window
from lctx.positions.xl import LearnedRelative
from lctx.types import segment_coords

LENGTH = 24
KINDS = {
  'post-norm': {},
  'pre-norm': {'pre_norm': True},
  'clamp': {'clamp': 4},
  'per layer': {'per_layer_biases': True, 'pre_norm': True, 'clamp': 7},
  'learned': {'position': LearnedRelative(9)},
}
kinds = pytest.mark.parametrize('kind', KINDS)


def pair(kind='post-norm', memory_length=7, **fields):
  model = tiny.transformer_xl(
    memory_length=memory_length, **fields, **KINDS[kind]
  )
  return model, tiny.large_params(model)


@functools.partial(jax.jit, static_argnums=(0, 3))
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


@functools.partial(jax.jit, static_argnums=(0, 3))
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


def cut(length, segment):
  """Lengths of segments, the last one ragged."""
  whole, rest = divmod(length, segment)
  return [segment] * whole + [rest] * (rest > 0)


@kinds
@pytest.mark.parametrize('segment', [1, 6])
def test_a_scan_over_segments_is_the_loop(kind, segment, close):
  model, params = pair(kind)
  ids = tiny.some_ids(2, LENGTH)
  hidden, _ = scanned(model, params, ids, segment)
  close(hidden, tiny.loop(model, params, ids, cut(LENGTH, segment)), 1e-6)


def test_the_scan_hands_on_what_the_loop_hands_on(close):
  model, params = pair()
  ids = tiny.some_ids(2, LENGTH)
  _, carry = scanned(model, params, ids, 6)
  want = model.initial(2)
  for start in range(0, LENGTH, 6):
    tokens = ids[:, start : start + 6]
    _, want = tiny.jitted_segment(
      model, params, tokens, jnp.zeros_like(tokens), want
    )
  jax.tree.map(lambda a, b: close(a, b, 1e-6), carry, want)


@kinds
@pytest.mark.parametrize('lengths', [cut(LENGTH, 1), cut(LENGTH, 7)])
def test_a_memory_of_everything_is_one_causal_pass(kind, lengths, close):
  model, params = pair(kind, memory_length=LENGTH)
  ids = tiny.some_ids(2, LENGTH)
  want = one_pass(model, params, ids, Causal(), starts_of(lengths))
  close(tiny.loop(model, params, ids, lengths), want)


@kinds
@pytest.mark.parametrize(
  'lengths', [cut(LENGTH, 1), cut(LENGTH, 7), [3, 11, 1, 9]], ids=str
)
def test_same_length_is_one_pass_under_a_band(kind, lengths, close):
  model, params = pair(kind, memory_length=5, same_length=True)
  ids = tiny.some_ids(2, LENGTH)
  want = one_pass(model, params, ids, Window(4), starts_of(lengths))
  got = tiny.loop(model, params, ids, lengths)
  close(got, want)
  other = one_pass(model, params, ids, Window(5), starts_of(lengths))
  assert np.abs(got - other).max() > 1e-2


@kinds
@pytest.mark.parametrize(
  'lengths', [cut(LENGTH, 1), cut(LENGTH, 7), [3, 11, 1, 9]], ids=str
)
def test_a_memory_is_one_pass_under_a_staircase(kind, lengths, close):
  model, params = pair(kind, memory_length=5)
  ids = tiny.some_ids(2, LENGTH)
  want = one_pass(model, params, ids, Staircase(5), starts_of(lengths))
  close(tiny.loop(model, params, ids, lengths), want)


def test_no_memory_is_segments_that_stand_alone(close):
  model, params = pair(memory_length=0)
  ids = tiny.some_ids(2, LENGTH)
  together = tiny.loop(model, params, ids, cut(LENGTH, 7))
  for start in range(0, LENGTH, 7):
    part = ids[:, start : start + 7]
    alone = tiny.loop(model, params, part, [part.shape[1]])
    close(together[:, start : start + 7], alone, 1e-6)


def test_runs_must_divide_the_segments():
  with pytest.raises(ValueError, match='data.segments = 4 is no multiple of 3'):
    scan_segments(None, None, jnp.zeros((4, 1)), gradient_segments=2)

"""A key that counts n times is n keys, whichever kernel meets it."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.banded import Banded
from lctx.kernels.chunked import Chunked
from lctx.kernels.counted import counted
from lctx.kernels.dense import Dense
from lctx.kernels.fused import Fused
from lctx.kernels.source import Source
from lctx.patterns import BlockSparse, Window
from lctx.patterns.base import visible
from lctx.positions.rope import Rope
from lctx.types import EMPTY, segment_coords

B, T, N, K, H, RANDOM = 2, 27, 4, 2, 6, 3
BLOCKS = BlockSparse(block=2, random=RANDOM, seed=None).of_length(T)
KERNELS = {
  'dense': (Dense(), BLOCKS),
  'chunked': (Chunked(5, 8), BLOCKS),
  'banded': (Banded(), BLOCKS & Window(9, 7)),
  'tpu': (Fused(8, 16, interpret=True), BLOCKS),
  'gpu': (Fused(16, 8, interpret=True, platform='gpu'), BLOCKS),
}


def coords():
  """Row 1 has two documents, and empty slots behind."""
  document = np.zeros((B, T), np.int32)
  document[1, 15:], document[1, -2:] = 1, EMPTY
  return segment_coords(jnp.asarray(document))


def arrays():
  random = np.random.default_rng(0)
  shapes = {'q': (B, T, N, H), 'k': (B, T, K, H), 'v': (B, T, K, H)}
  return {x: jnp.asarray(random.normal(size=y)) for x, y in shapes.items()}


def by_loops(given, pattern):
  """Float64: those of the first block stand there 1 + RANDOM times."""
  at = coords()
  seen = np.asarray(visible(pattern, at, at, jnp.arange(N)))
  q, k, v = (np.float64(given[x]) for x in 'qkv')
  number, out = np.asarray(at.offset) // 2, np.zeros((B, T, N, H))
  for b, t, n in np.ndindex(B, T, N):
    keys = list(np.flatnonzero(seen[min(n, len(seen) - 1), b, t]))
    if 1 <= number[b, t] < BLOCKS.blocks - 1:
      keys += RANDOM * [s for s in keys if number[b, s] == 0]
    if keys:
      weights = np.exp(k[b, keys, n // (N // K)] @ q[b, t, n])
      out[b, t, n] = weights @ v[b, keys, n // (N // K)] / weights.sum()
  return out


@functools.partial(tiny.quick_jit, static_argnums=(0, 1))
def attended(kernel, pattern, given, scores=()):
  """What comes out, and the gradients of all that is given."""

  def weighed(given):
    at = coords()
    source = Source(**given, q_at=at, k_at=at, scores=scores, pattern=pattern)
    y = kernel((counted(source),), None)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  return jax.grad(weighed, has_aux=True)(given)


@pytest.mark.parametrize('name', KERNELS)
def test_a_key_that_counts_several_times_is_several_keys(name, close):
  kernel, pattern = KERNELS[name]
  grads, y = attended(kernel, pattern, arrays())
  held = np.asarray(coords().document) >= 0
  close(np.asarray(y)[held], by_loops(arrays(), pattern)[held])
  wanted, _ = attended(Dense(), pattern, arrays())
  jax.tree.map(close, grads, wanted)


def test_it_is_counted_after_keys_are_turned(close):
  """Their new channel is no part of what a rotation turns."""
  rope = Rope().score(None, None, types.SimpleNamespace(head_width=H))
  at = coords()
  given = arrays()
  q, k = rope.rotate(given['q'], given['k'], at, at)
  _, turned = attended(Dense(), BLOCKS, {**given, 'q': q, 'k': k})
  _, y = attended(Dense(), BLOCKS, given, (rope,))
  close(y, turned)


def test_a_pattern_that_counts_once_changes_nothing():
  at, given = coords(), arrays()
  pattern = BlockSparse(14, 2, random=0, seed=None)
  source = Source(**given, q_at=at, k_at=at, scores=(), pattern=pattern)
  assert counted(source) is source

"""ALiBi takes slope x distance from each logit, whichever way it looks."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.patterns import Causal, Everything, Window
from lctx.positions.alibi import Alibi, slopes
from lctx.positions.base import Sizes
from lctx.types import segment_coords

B, T, S, H = 2, 4, 9, 5
SIZES = Sizes(
  width=8,
  num_heads=1,
  key_heads=1,
  head_width=H,
  distances=S,
  ahead=0,
  dtype=jnp.float32,
  key_width=H,
)


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def published(num_heads):
  """The authors' `get_slopes`, as it stands."""

  def power_of_two(n):
    start = 2 ** (-(2 ** -(math.log2(n) - 3)))
    return [start * start**i for i in range(n)]

  if math.log2(num_heads).is_integer():
    return power_of_two(num_heads)
  closest = 2 ** math.floor(math.log2(num_heads))
  more = published(2 * closest)[0::2][: num_heads - closest]
  return power_of_two(closest) + more


@pytest.mark.parametrize('num_heads', [*range(1, 17), 20, 32, 71])
def test_slopes_are_those_of_the_authors(num_heads):
  got = slopes(num_heads)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, published(num_heads), rtol=2e-7)


def test_slopes_in_figures():
  half = np.sqrt(0.5)
  eight = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
  figures = {
    1: [1 / 256],
    2: [1 / 16, 1 / 256],
    3: [1 / 16, 1 / 256, 1 / 4],
    6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8],
    8: eight,
    12: [*eight, half, half / 2, half / 4, half / 8],
  }
  for num_heads, want in figures.items():
    np.testing.assert_allclose(slopes(num_heads), want, rtol=1e-7)


def fall(num_heads):
  sizes = dataclasses.replace(SIZES, num_heads=num_heads)
  return Alibi().score(None, None, sizes)


def coords(promise=True):
  """Keys far from the origin; queries in the middle of them."""
  k_at = segment_coords(jnp.zeros((B, S), jnp.int32), start=995)
  q_at = k_at.take(3, 3 + T)
  if promise:
    return q_at, k_at
  return q_at.replace(start=None), k_at.replace(start=None)


@pytest.mark.parametrize('num_heads', [1, 2, 3, 6, 8, 12])
def test_what_is_added_is_minus_slope_times_steps_either_way(num_heads, close):
  s = normal(num_heads, num_heads, B, T, S)
  want = np.float64(s)
  for n, i, j in np.ndindex(num_heads, T, S):
    want[n, :, i, j] -= published(num_heads)[n] * abs(3 + i - j)
  for promise in (True, False):
    close(fall(num_heads).block(s, None, *coords(promise)), want, 1e-6)


@pytest.mark.parametrize('pattern', [Causal(), Window(3, 2), Everything()])
def test_attention_with_it_is_its_equation(pattern, close):
  heads = 3
  q, k, v = normal(0, B, T, heads, H), *normal(1, 2, B, S, heads, H)
  q_at, k_at = coords()
  document = np.zeros((B, S), np.int32)
  document[1, 5:] = 1
  k_at = k_at.replace(document=jnp.asarray(document))
  q_at = q_at.replace(document=k_at.document[:, 3 : 3 + T])
  source = Source(q, k, v, q_at, k_at, (fall(heads),), pattern)
  want, (q, k, v) = np.zeros(q.shape), map(np.float64, (q, k, v))
  before, after = (S if x is None else x for x in pattern.reach)
  for b, i, n in np.ndindex(B, T, heads):
    at = 3 + i
    seen = [
      j
      for j in range(S)
      if -after <= at - j <= before and document[b, j] == document[b, at]
    ]
    logits = [
      q[b, i, n] @ k[b, j, n] - published(heads)[n] * abs(at - j) for j in seen
    ]
    weights = np.exp(np.array(logits) - max(logits))
    want[b, i, n] = weights @ v[b, seen, n] / weights.sum()
  close(tiny.quick_jit(Dense())((source,), None), want)

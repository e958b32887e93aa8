"""Distances read by a shift are distances looked up one by one."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.positions.relative import Relative
from lctx.positions.sinusoid import sinusoid
from lctx.positions.xl import LearnedRelative, RelativeXL
from lctx.types import segment_coords

HEADS, WIDTH = 2, 3


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def score(rows, learned):
  """A table of some distances; a learned one has a bias for each, and no v."""
  return Relative(
    normal(0, rows, HEADS, WIDTH),
    normal(1, HEADS, WIDTH),
    None if learned else normal(2, HEADS, WIDTH),
    normal(3, rows, HEADS) if learned else None,
    WIDTH**-0.5,
  )


def coords(start, length):
  return segment_coords(jnp.zeros((1, length), jnp.int32), start=start)


def cases(back):
  """Queries, keys and rows of a table that need not reach the first key."""
  for queries, keys in itertools.product((1, 2, 5), (1, 4, 8)):
    reach = back + queries
    for rows in sorted({1, 2, reach, reach + 2}):
      yield queries, keys, rows


@pytest.mark.parametrize('learned', [False, True], ids=['sinusoids', 'learned'])
@pytest.mark.parametrize('back', [0, 1, 3])
def test_a_shift_reads_the_distances_that_a_gather_looks_up(
  back, learned, close
):
  q = normal(4, 1, 5, HEADS, WIDTH)

  @tiny.quick_jit
  def both(q):
    found = []
    for queries, keys, rows in cases(back):
      relative, k_at = score(rows, learned), coords(0, keys)
      q_at, x = coords(back, queries), q[:, :queries]
      zero = jnp.zeros((HEADS, 1, queries, keys))
      shifted = relative.block(zero, x, q_at, k_at)
      vague = q_at.replace(start=None)
      found.append((shifted, relative.block(zero, x, vague, k_at)))
    return found

  for (queries, keys, rows), (got, want) in zip(cases(back), both(q)):
    steps = back + np.arange(queries)[:, None] - np.arange(keys)[None]
    behind = steps >= 0  # what is ahead is for the mask to hide
    close(np.where(behind, got, 0), np.where(behind, want, 0), 1e-6)
    relative = score(rows, learned)
    r = np.asarray(relative.r_PNH)[np.clip(steps, 0, rows - 1)]
    v = 0 if learned else np.asarray(relative.v_NH) * WIDTH**-0.5
    equation = np.einsum('btnh,tsnh->nbts', np.asarray(q[:, :queries]) + v, r)
    if learned:
      c = np.asarray(relative.c_PN)[np.clip(steps, 0, rows - 1)]
      equation += WIDTH**-0.5 * c.transpose(2, 0, 1)[:, None]
    close(np.where(behind, want, 0), np.where(behind, equation, 0))


@pytest.mark.parametrize('width', [2, 6, 10])
def test_a_sinusoid_is_its_equation(width):
  position = np.arange(0, 4000, 37)
  half = np.arange(width // 2)
  angle = position[:, None] / 10_000 ** (2 * half / width)
  want = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
  got = sinusoid(jnp.asarray(position), width)
  np.testing.assert_allclose(got, want, atol=1e-3)  # float32 angles of 4000
  np.testing.assert_allclose(got[:3], want[:3], atol=1e-5)


def test_tables_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match=r'model\.position\.clamp = 0'):
    RelativeXL(clamp=0)
  with pytest.raises(ValueError, match=r'model\.position\.length = 0'):
    LearnedRelative(0)
  with pytest.raises(ValueError, match=r'model\.position\.clamp = 5 has no'):
    LearnedRelative(4, clamp=5)

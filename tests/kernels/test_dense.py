"""Attention by its equation, over one source or several, with dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.patterns.causal import Causal
from lctx.patterns.window import Window
from lctx.positions.relative import Relative
from lctx.types import Coords, segment_coords

ROWS, QUERIES, KEYS, HEADS, WIDTH = 2, 4, 9, 3, 5


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def score():
  heads = (HEADS, WIDTH)
  return Relative(
    normal(1, KEYS, *heads), normal(2, *heads), normal(3, *heads), None, 0.5
  )


def source(pattern=None):
  """Queries in the last slots of the keys; row 1 has two documents."""
  document = jnp.zeros((ROWS, KEYS), jnp.int32).at[1, :3].set(-1)
  document = document.at[1, 5:].set(1)
  k_at = segment_coords(document, start=QUERIES - KEYS)
  q_at = k_at.take(KEYS - QUERIES, KEYS)
  return Source(
    q=normal(4, ROWS, QUERIES, HEADS, WIDTH),
    k=normal(5, ROWS, KEYS, HEADS, WIDTH),
    v=normal(6, ROWS, KEYS, HEADS, WIDTH),
    q_at=q_at,
    k_at=k_at,
    scores=(score(),),
    pattern=pattern or Causal(),
  )


def keys_of(whole, start, stop):
  """The same queries looking at some of the keys."""
  return whole.replace(
    k=whole.k[:, start:stop],
    v=whole.v[:, start:stop],
    k_at=whole.k_at.take(start, stop),
  )


attend = tiny.quick_jit(Dense())


def test_attention_is_its_equation(close):
  whole, relative = source(Window(6)), score()
  q, k, v, r, u, w = (
    np.float64(x)
    for x in (
      whole.q,
      whole.k,
      whole.v,
      relative.r_PNH,
      relative.u_NH,
      relative.v_NH,
    )
  )
  want = np.zeros(q.shape)
  index, document = (
    np.asarray(whole.k_at.index),
    np.asarray(whole.k_at.document),
  )
  for b, i, n in np.ndindex(ROWS, QUERIES, HEADS):
    t = KEYS - QUERIES + i
    seen = [
      j
      for j in range(KEYS)
      if 0 <= index[b, t] - index[b, j] <= 6
      and document[b, j] == document[b, t]
    ]
    logits = np.array(
      [
        (q[b, i, n] + 0.5 * u[n]) @ k[b, j, n]
        + (q[b, i, n] + 0.5 * w[n]) @ r[t - j, n]
        for j in seen
      ]
    )
    weights = np.exp(logits - logits.max())
    want[b, i, n] = weights @ v[b, seen, n] / weights.sum()
  close(attend((whole,), None), want)


def test_keys_may_come_from_several_sources(close):
  whole = source()
  for dropout in (None, Dropout(jax.random.key_data(jax.random.key(7)), 0.4)):
    parts = tuple(keys_of(whole, a, b) for a, b in ((0, 2), (2, 3), (3, KEYS)))
    close(attend(parts, dropout), attend((whole,), dropout), 1e-6)


def test_coordinates_that_promise_nothing_say_the_same(close):
  whole = source(Window(5))
  vague = whole.replace(
    q_at=whole.q_at.replace(start=None), k_at=whole.k_at.replace(start=None)
  )
  close(attend((vague,), None), attend((whole,), None), 1e-6)


def grid(q_start, queries, k_start, keys):
  def at(start, length) -> Coords:
    return segment_coords(jnp.zeros((ROWS, length), jnp.int32), start=start)

  return at(q_start, queries), at(k_start, keys)


def kept(seed, rate, heads, *where):
  """The mask of one random key, on a grid of queries and keys."""
  dropout = Dropout(jax.random.key_data(jax.random.key(seed)), rate)
  return np.asarray(
    tiny.quick_jit(lambda: dropout.keep(jnp.arange(heads), *grid(*where)))()
  )


def test_what_is_dropped_depends_on_coordinates_alone():
  whole = kept(3, 0.4, HEADS, 0, 6, -5, 11)
  for q_start, queries, k_start, keys in ((0, 2, -5, 11), (3, 2, -1, 4)):
    part = kept(3, 0.4, HEADS, q_start, queries, k_start, keys)
    inside = whole[:, :, q_start:, k_start + 5 :][:, :, :queries, :keys]
    np.testing.assert_array_equal(part, inside)


def test_a_row_and_a_head_drop_by_their_number(close):
  """So a shard that has some of them drops what the whole would."""
  whole = kept(3, 0.4, HEADS, 0, 6, -5, 11)
  dropout = Dropout(
    jax.random.key_data(jax.random.key(3)), 0.4, rows=jnp.array([1, 0])
  )
  part = dropout.keep(jnp.array([2]), *grid(0, 6, -5, 11))
  np.testing.assert_array_equal(part, whole[2:, ::-1])


def test_the_dropped_share_is_the_rate_and_the_kept_make_up_for_it():
  keep = kept(0, 0.4, 8, 0, 50, 0, 60)
  share, count = (keep == 0).mean(), keep.size
  assert abs(share - 0.4) < 4 * np.sqrt(0.24 / count)
  np.testing.assert_allclose(keep[keep != 0], 1 / 0.6, rtol=1e-6)


def test_rows_heads_queries_keys_and_random_keys_are_dropped_apart():
  one, two = (kept(seed, 0.5, 8, 0, 40, 0, 40) for seed in (0, 1))
  pairs = (
    (one[0], one[1]),  # heads
    (one[:, 0], one[:, 1]),  # rows
    (one[:, :, 0], one[:, :, 1]),
    (one[..., 0], one[..., 1]),
    (one, one.swapaxes(2, 3)),
    (one, two),
  )
  for first, second in pairs:
    assert 0.4 < (first == second).mean() < 0.6

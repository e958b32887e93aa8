"""In a band: equal to the definition, at the cost of the window."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.banded import Banded
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.patterns import Causal, Chunks, Dilated, Sinks, Window
from lctx.positions.adaptive import Reweighted
from lctx.positions.alibi import Fall
from lctx.positions.cap import SoftCap
from lctx.positions.relative import Relative
from lctx.positions.rope import Rotation
from lctx.positions.span import Span
from lctx.types import EMPTY, segment_coords

B, N, K, H = 2, 4, 2, 3
IN_TURNS = 0.0015  # MiB of logits: one block of four queries, or two


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def relative(ahead):
  """Rows for some distances, fewer than occur on either side."""
  rows = (11 + ahead, N)
  r_PNH, u_NH, v_NH = normal(0, *rows, H), normal(1, N, H), normal(2, N, H)
  return Relative(r_PNH, u_NH, v_NH, normal(3, *rows), 0.5, ahead)


def cosine():
  return Relative(
    None, None, None, jnp.cos(jnp.arange(-40.0, 40))[:, None], 1, 40
  )


SCORES = {
  'none': (),
  'relative': (relative(0),),
  'both ways': (relative(3),),
  'shared by heads': (cosine(),),
  'falling': (Fall(normal(8, N)), SoftCap(2.0)),
  'rotated': (Rotation(jnp.asarray([1])),),
  'rotated, capped': (Rotation(jnp.asarray([1])), SoftCap(2.0)),
  'adaptive': (Reweighted(normal(9, N), cosine()), Span(normal(10, N) + 4, 3)),
}


def source(pattern, scores=(), queries=13, keys=29):
  """Row 1 has empty slots and two documents."""
  document = jnp.zeros((B, keys), jnp.int32)
  document = document.at[1, :3].set(EMPTY).at[1, -7:].set(1)
  k_at = segment_coords(document, start=queries - keys)
  q_at = k_at.take(keys - queries, keys)
  q, k = normal(4, B, queries, N, H), normal(5, B, keys, K, H)
  v = normal(6, B, keys, K, H)
  return Source(q, k, v, q_at, k_at, tuple(scores), pattern)


@functools.partial(tiny.quick_jit, static_argnums=0)
def attended(kernel, sources, dropout):
  """What comes out, and the gradient of all that goes in."""

  def weighted(sources):
    y = kernel(sources, dropout)
    return (y * normal(7, *y.shape)).sum(), y

  gradient = jax.grad(weighted, has_aux=True, allow_int=True)
  grads, y = gradient(sources)
  return y, [g for g in jax.tree.leaves(grads) if g.dtype == jnp.float32]


@pytest.mark.parametrize(
  'pattern, scores',
  [
    (Window(4), 'relative'),
    (Window(1), 'falling'),
    (Window(3, 5), 'both ways'),
    (Window(50), 'none'),
    (Window(5), 'rotated, capped'),
    (Window(2, 9), 'adaptive'),
    (Causal() & Chunks(6), 'adaptive'),
    (Dilated(3, (1, 2, 2, 3)), 'relative'),
    (Dilated(2, (2, 2, 2, 2), after=1), 'both ways'),
    (Dilated(2, (1, 2, 2, 1)), 'shared by heads'),
    (Dilated(3, (2, 1, 1, 3)), 'rotated'),
    (Dilated(2, (4, 1, 4, 1), after=2), 'adaptive'),
    (Dilated(2, (3, 3, 1, 1)) & Window(4), 'falling'),
  ],
  ids=lambda x: x if isinstance(x, str) else f'{type(x).__name__} ',
)
def test_a_band_gives_what_is_computed_at_once(pattern, scores, close):
  dropout = Dropout(jax.random.key_data(jax.random.key(3)), 0.3)
  for queries, kernel in ((13, Banded()), (29, Banded(4, IN_TURNS))):
    sources = (source(pattern, SCORES[scores], queries),)
    want = attended(Dense(), sources, dropout)
    jax.tree.map(close, attended(kernel, sources, dropout), want)


def test_twice_the_length_costs_twice():
  """In the compiled program: operations and temporary memory."""

  def cost(length, pattern):
    at = segment_coords(jnp.zeros((1, length), jnp.int32))
    array = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
    table = jax.ShapeDtypeStruct((65, 2, 16), jnp.float32)

    def loss(q, k, v, r):
      score = Relative(r, None, None, None, 1.0)
      return Banded()((Source(q, k, v, at, at, (score,), pattern),), None).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
    compiled = step.lower(array, array, array, table).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    return np.array([compiled.cost_analysis()['flops'], memory])

  for pattern in (Window(64), Dilated(32, (1, 2))):
    once, twice = (cost(n, pattern) for n in (1024, 2048))
    assert (twice <= 2 * 1.15 * once).all()


def test_turns_need_less_memory_and_twice_of_it_for_twice_the_length():
  def needed(kernel, length=2048):
    at = segment_coords(jnp.zeros((1, length), jnp.int32))
    q = jax.ShapeDtypeStruct((1, length, 8, 4), jnp.float32)

    def loss(q, k, v):
      return kernel((Source(q, k, v, at, at, (), Window(64)),), None).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, q, q)
    return step.compile().memory_analysis().temp_size_in_bytes

  in_turns = Banded(at_once=0.5)
  assert needed(in_turns) < needed(Banded(at_once=64)) / 2
  assert needed(in_turns, 4096) <= 2 * 1.15 * needed(in_turns)


def test_a_score_that_cannot_be_parted_by_heads_is_told():
  class Falls(Fall):
    def of_heads(self, heads_N):
      return self

  some = (source(Dilated(2, (1, 2, 2, 2)), (Falls(normal(8, N)),)),)
  with pytest.raises(TypeError, match='no of_heads'):
    Banded()(some, None)


def test_patterns_without_an_end_are_refused_with_a_way_out():
  for pattern in (Causal(), Window(3) | Sinks(1)):
    with pytest.raises(ValueError, match='kernel=chunked'):
      Banded().check(pattern)
  with pytest.raises(ValueError, match=r'model\.compute\.kernel\.block = 0'):
    Banded(0)
  with pytest.raises(
    ValueError, match=r'model\.compute\.kernel\.at_once = inf'
  ):
    Banded(at_once=np.inf)

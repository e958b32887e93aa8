"""By tiles or at once: attention and all its gradients are the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.kernels.tiles import prepared
from lctx.patterns.base import Everything
from lctx.patterns.causal import Causal, Staircase
from lctx.patterns.window import Window
from lctx.positions.relative import Relative
from lctx.types import EMPTY, segment_coords

B, T, S, N, H = 2, 13, 29, 3, 5
PATTERNS = {
  'causal': Causal(),
  'window': Window(6),
  'both': Causal() & Window(11),
  'staircase': Causal() & Staircase(9),
  'everything': Everything(),
}
TILES = [(4, 8), (5, 29), (13, 3), (99, 99)]


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def score(rows, learned=False):
  """Of `rows` distances; farther ones are clamped to the last."""
  v_NH, c_PN = normal(2, N, H), normal(3, rows, N)
  r_PNH, u_NH = normal(0, rows, N, H), normal(1, N, H)
  v_NH, c_PN = (None, c_PN) if learned else (v_NH, None)
  return Relative(r_PNH, u_NH, v_NH, c_PN, 0.5)


def source(pattern='causal', scores=(), promise=True, queries=T, keys=S):
  """Row 1 has empty slots and two documents, the second of one token."""
  document = jnp.zeros((B, keys), jnp.int32)
  document = document.at[1, :3].set(EMPTY).at[1, -1:].set(1)
  k_at = segment_coords(document, start=queries - keys)
  q_at = k_at.take(keys - queries, keys)
  if not promise:
    q_at, k_at = q_at.replace(start=None), k_at.replace(start=None)
  arrays = normal(4, B, queries, N, H), normal(5, B, keys, N, H)
  v = normal(6, B, keys, N, H)
  return Source(*arrays, v, q_at, k_at, tuple(scores), PATTERNS[pattern])


@functools.partial(tiny.quick_jit, static_argnums=0)
def attended(kernel, sources, dropout):
  """What comes out, and the gradient of all that goes in."""

  def weighted(sources):
    y = kernel(sources, dropout)
    return (y * normal(7, *y.shape)).sum(), y

  gradient = jax.grad(weighted, has_aux=True, allow_int=True)
  grads, y = gradient(sources)
  return y, [g for g in jax.tree.leaves(grads) if g.dtype == jnp.float32]


def drop():
  return Dropout(jax.random.key_data(jax.random.key(3)), 0.3)


CASES = {
  'plain': {},
  'relative': {'scores': [score(S)]},
  'clamped': {'scores': [score(7)]},
  'a learned table': {'scores': [score(S, learned=True)]},
  'two scores': {'scores': [score(S), score(9, learned=True)]},
  'no promise': {'scores': [score(S)], 'promise': False},
  'no promise, clamped': {'scores': [score(7, learned=True)], 'promise': False},
  'one query': {'scores': [score(S)], 'queries': 1},
  'no memory': {'scores': [score(T)], 'keys': T},
}


# Each case with one pattern, and each pattern with the relative term or, where
# what lies ahead has no relative position, without.
PAIRS = [
  *(('causal', case) for case in CASES),
  *((p, 'relative') for p in PATTERNS if p not in ('causal', 'everything')),
  ('everything', 'plain'),
  ('window', 'clamped'),
]


@pytest.mark.parametrize('pattern, case', PAIRS)
def test_tiles_of_any_size_give_what_is_computed_at_once(pattern, case, close):
  sources = (source(pattern, **CASES[case]),)
  dropout = drop() if case == 'two scores' else None
  want = attended(Dense(), sources, dropout)
  number = PAIRS.index((pattern, case))
  for tile in (TILES[number % 4], TILES[(number + 1 + number // 4) % 4]):
    jax.tree.map(close, attended(Chunked(*tile), sources, dropout), want)


@pytest.mark.parametrize('rate', [None, 0.3])
def test_sources_share_one_softmax_and_one_mask(rate, close):
  whole = source('window', [score(S)])
  dropout = None if rate is None else drop()
  parts = tuple(
    whole.replace(
      k=whole.k[:, a:b], v=whole.v[:, a:b], k_at=whole.k_at.take(a, b)
    )
    for a, b in ((0, 11), (11, 12), (12, S))
  )
  want, _ = attended(Dense(), (whole,), dropout)
  for tile in TILES:
    close(attended(Chunked(*tile), parts, dropout)[0], want)
  _, want = attended(Dense(), parts, dropout)
  jax.tree.map(close, attended(Chunked(4, 8), parts, dropout)[1], want)


def test_short_numbers_give_nearly_the_same_and_stay_short(close):
  def shorter(x):
    return x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x

  exact = source('causal', [score(S)])
  arrays = {name: shorter(getattr(exact, name)) for name in 'qkv'}
  short = exact.replace(**arrays)
  y, grads = attended(Chunked(4, 8), (short,), None)
  want, exact_grads = attended(Dense(), (exact,), None)
  assert y.dtype == jnp.bfloat16
  close(np.float32(y), want, 0.05)  # eight bits of mantissa
  assert [g.dtype for g in grads] == [jnp.float32] * 3  # r, u, v of the score
  for got, want in zip(grads, exact_grads[-3:], strict=True):
    close(got, want, 0.05)


def test_a_query_that_sees_nothing_gets_zeros():
  alone = source()
  nothing = jnp.full((B, S), EMPTY, jnp.int32)
  alone = alone.replace(k_at=alone.k_at.replace(document=nothing))
  for kernel in (Dense(), Chunked(4, 8)):
    y, grads = attended(kernel, (alone,), None)
    assert not y.any() and all(np.isfinite(g).all() for g in grads)


def test_tiles_that_no_query_sees_are_left_out():
  def tiles(pattern, promise=True):
    plan, _, _ = prepared(source(pattern, promise=promise), 4, 8)
    return list(zip(plan.first, plan.end))

  # Queries sit at 0 to 15 (13 and three to fill up), keys from -16 to 15.
  assert tiles('causal') == [(0, 3), (0, 3), (0, 4), (0, 4)]
  assert tiles('window') == [(1, 3), (1, 3), (2, 4), (2, 4)]
  assert tiles('everything') == tiles('causal', promise=False) == [(0, 4)] * 4


def largest(jaxpr):
  """Elements of the largest array that a program makes."""
  found = [0]
  for equation in jaxpr.eqns:
    found += [int(np.prod(v.aval.shape)) for v in equation.outvars]
    for value in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(value, 'jaxpr', value)
      found += [largest(inner)] if hasattr(inner, 'eqns') else []
  return max(found)


def test_no_array_of_all_queries_and_keys_is_made():
  """Neither forward nor backward, relative terms included."""
  long = source('causal', [score(1024)], queries=512, keys=1024)

  def loss(kernel, sources):
    return (kernel(sources, None) ** 2).sum()

  grad = jax.grad(loss, argnums=1, allow_int=True)
  sizes = [
    largest(jax.make_jaxpr(functools.partial(grad, kernel))((long,)).jaxpr)
    for kernel in (Dense(), Chunked(32, 64))
  ]
  assert sizes[0] >= B * N * 512 * 1024
  assert sizes[1] <= 2 * B * N * H * 1024


@pytest.mark.slow
def test_memory_is_that_of_outputs_and_gradients():
  """16,384 x 16,384, 8 heads of 64: at most 1.25 times what comes out."""
  length, heads, width = 16_384, 8, 64
  k_at = segment_coords(jnp.zeros((1, length), jnp.int32))
  array = jax.ShapeDtypeStruct((1, length, heads, width), jnp.float32)
  table = jax.ShapeDtypeStruct((length, heads, width), jnp.float32)
  bias = jax.ShapeDtypeStruct((heads, width), jnp.float32)

  def step(q, k, v, r, u, w, dy):
    def attend(q, k, v, r, u, w):
      relative = Relative(r, u, w, None, 0.125)
      return Chunked()(
        (Source(q, k, v, k_at, k_at, (relative,), Causal()),), None
      )

    y, back = jax.vjp(attend, q, k, v, r, u, w)
    return y, back(dy)

  shapes = array, array, array, table, bias, bias, array
  memory = jax.jit(step).lower(*shapes).compile().memory_analysis()
  assert memory.temp_size_in_bytes <= 1.25 * memory.output_size_in_bytes


def test_sides_that_cannot_be_are_refused_by_name():
  for fields in ({'queries': 0}, {'keys': -1}):
    with pytest.raises(ValueError, match=r'model\.compute\.kernel\.'):
      Chunked(**fields)

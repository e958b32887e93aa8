"""Every score: the same by tiles of any size, and what lies ahead of a query.

Its own test proves a score by its equation, with the dense kernel.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.patterns import Causal, Dilated, Everything, Window
from lctx.positions import Alibi, LearnedRelative, RelativeXL, T5Bias
from lctx.positions.adaptive import AdaptiveQueries, AdaptiveScores
from lctx.positions.base import Sizes
from lctx.positions.cap import SoftCap
from lctx.positions.span import Span
from lctx.types import EMPTY, segment_coords

B, T, S, N, H, WIDTH = 2, 7, 17, 3, 4, 6
BEHIND = S  # distances from 0 to S - 1
TILES = [(2, 4), (3, 17), (7, 3), (99, 99)]
PATTERNS = {
  'causal': Causal(),
  'window': Window(6, 2),
  'everything': Everything(),
  'a gap for each head': Dilated(3, (1, 2, 3)),
}


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def sizes(pattern):
  after = PATTERNS[pattern].reach.after
  return Sizes(
    width=WIDTH,
    num_heads=N,
    key_heads=N,
    head_width=H,
    distances=BEHIND,
    ahead=T - 1 if after is None else min(after, T - 1),
    dtype=jnp.float32,
    key_width=H,
  )


def param(name, shape, axes, init=None):
  """Large, and different for every name."""
  return normal(sum(map(ord, name)), *shape)


def position(scheme, pattern):
  given = sizes(pattern)
  scheme.check(given)
  shared = scheme.once(param, given, lambda x: x)
  return scheme.score(param, shared, given)


def span():
  """A head at either end of the ramp, and one between."""
  return Span(jnp.array([0.0, 3.6, 20.0]), 4)


CASES = {
  'alibi': lambda p: [position(Alibi(), p)],
  't5': lambda p: [position(T5Bias(8, 9, both_ways=p != 'causal'), p)],
  'sinusoids': lambda p: [position(RelativeXL(), p)],
  'sinusoids, clamped': lambda p: [position(RelativeXL(clamp=3), p)],
  'learned': lambda p: [position(LearnedRelative(9, ahead=3), p)],
  'cap': lambda p: [SoftCap(1.5)],
  'span': lambda p: [span()],
  'adaptive scores': lambda p: [AdaptiveScores().score(param, sizes(p))],
  'cosines': lambda p: [AdaptiveQueries().average(sizes(p))],
  'all': lambda p: [
    position(T5Bias(8, 9, both_ways=True), p),
    AdaptiveScores().score(param, sizes(p)),
    SoftCap(1.5),
    span(),
  ],
}
PAIRS = [
  ('everything', 'alibi'),
  ('causal', 't5'),
  ('everything', 't5'),
  ('everything', 'sinusoids'),
  ('window', 'sinusoids, clamped'),
  ('everything', 'learned'),
  ('causal', 'cap'),
  ('everything', 'span'),
  ('everything', 'adaptive scores'),
  ('a gap for each head', 'adaptive scores'),
  ('window', 'cosines'),
  ('everything', 'all'),
]


def source(pattern, scores=(), promise=True, key_heads=N):
  """Row 1 has empty slots and three documents, the last of one token."""
  document = jnp.zeros((B, S), jnp.int32)
  document = document.at[1, :3].set(EMPTY).at[1, 12:].set(1).at[1, -1].set(2)
  k_at = segment_coords(document, start=T - S)
  q_at = k_at.take(S - T, S)
  if not promise:
    q_at, k_at = q_at.replace(start=None), k_at.replace(start=None)
  q, (k, v) = normal(0, B, T, N, H), normal(1, 2, B, S, key_heads, H)
  return Source(q, k, v, q_at, k_at, tuple(scores), PATTERNS[pattern])


def halves(whole):
  """The same keys in two sources."""
  return tuple(
    whole.replace(
      k=whole.k[:, a:b], v=whole.v[:, a:b], k_at=whole.k_at.take(a, b)
    )
    for a, b in ((0, 6), (6, S))
  )


@functools.partial(tiny.quick_jit, static_argnums=0)
def attended(kernel, sources):
  """What comes out, and the gradient of queries, keys, values and scores.

  Sources share their scores, as those of a layer do.
  """
  arrays = [(s.q, s.k, s.v) for s in sources]

  def weighted(arrays, scores):
    given = [
      s.replace(q=q, k=k, v=v, scores=scores)
      for s, (q, k, v) in zip(sources, arrays)
    ]
    y = kernel(tuple(given), None)
    return (y * normal(7, *y.shape)).sum(), y

  gradient = jax.grad(weighted, argnums=(0, 1), has_aux=True)
  return gradient(arrays, sources[0].scores)[::-1]


@pytest.mark.parametrize('pattern, case', PAIRS)
def test_tiles_of_any_size_give_what_is_computed_at_once(pattern, case, close):
  """With the promise that coordinates make of where they start, or without."""
  scores, number = CASES[case](pattern), PAIRS.index((pattern, case))
  key_heads = 1 if case == 'all' else N
  want = attended(Dense(), (source(pattern, scores, True, key_heads),))
  vague = (source(pattern, scores, False, key_heads),)
  close(tiny.quick_jit(Dense())(vague, None), want[0])
  for i, promise in enumerate((True, False)):
    kernel = Chunked(*TILES[(number + i) % 4])
    sources = (source(pattern, scores, promise, key_heads),)
    jax.tree.map(close, attended(kernel, sources), want)


def test_sums_over_rows_are_taken_over_all_sources(close):
  whole = source('everything', CASES['adaptive scores']('everything'))
  want, (_, wanted) = attended(Dense(), (whole,))
  for kernel in (Dense(), Chunked(3, 4)):
    got, (_, grads) = attended(kernel, halves(whole))
    close(got, want)
    jax.tree.map(close, grads, wanted)


@pytest.mark.parametrize('promise', [True, False])
@pytest.mark.parametrize('clamp', [None, 3, 40])
def test_keys_ahead_have_sinusoids_of_negative_distances(clamp, promise, close):
  """Dai et al. 2019, section 3.3, by a loop over every distance."""
  score = position(RelativeXL(clamp), 'everything')
  whole = source('everything', [score], promise)
  kernel = np.float64(param('relative', (WIDTH, N, H), None))
  u, v = (
    np.float64(param(name, (N, H), None)) * H**-0.5
    for name in ('content_bias', 'distance_bias')
  )
  rates = 10_000 ** -(2 * np.arange(WIDTH // 2) / WIDTH)
  q, k = np.float64(whole.q), np.float64(whole.k)
  s = np.zeros((N, B, T, S))
  for i, j in np.ndindex(T, S):
    steps = S - T + i - j
    if clamp is not None:
      steps = max(-clamp, min(steps, clamp))
    wave = np.concatenate([np.sin(steps * rates), np.cos(steps * rates)])
    r = np.einsum('d,dnh->nh', wave, kernel)
    s[:, :, i, j] = np.einsum('bnh,bnh->nb', q[:, i] + u, k[:, j])
    s[:, :, i, j] += np.einsum('bnh,nh->nb', q[:, i] + v, r)
  close(attended(Dense(), (whole,))[0], weighed(s, whole))


@pytest.mark.parametrize('promise', [True, False])
@pytest.mark.parametrize(
  'length, clamp, ahead', [(BEHIND, None, T - 1), (9, 5, 2), (3, None, 12)]
)
def test_keys_ahead_have_learned_rows(length, clamp, ahead, promise, close):
  """Past the rows of either side, the last one serves."""
  scheme = LearnedRelative(length, clamp, ahead)
  score = position(scheme, 'everything')
  whole = source('everything', [score], promise)
  r, c = (
    np.float64(param(name, (ahead + length, *shape), None))
    for name, shape in (('relative', (N, H)), ('relative_bias', (N,)))
  )
  u = np.float64(param('content_bias', (N, H), None)) * H**-0.5
  q, k = np.float64(whole.q), np.float64(whole.k)
  s = np.zeros((N, B, T, S))
  last = (clamp or length) - 1
  for i, j in np.ndindex(T, S):
    row = ahead + max(-ahead, min(S - T + i - j, last))
    s[:, :, i, j] = np.einsum('bnh,bnh->nb', q[:, i] + u, k[:, j])
    s[:, :, i, j] += np.einsum('bnh,nh->nb', q[:, i], r[row])
    s[:, :, i, j] += H**-0.5 * c[row][:, None]
  close(attended(Dense(), (whole,))[0], weighed(s, whole))


def weighed(s, source):
  """Softmax over what documents let a query see, times the values."""
  q_at, k_at = (np.asarray(x.document) for x in (source.q_at, source.k_at))
  seen = (q_at[:, :, None] == k_at[:, None]) & (k_at[:, None] >= 0)
  weights = np.exp(s) * seen
  total = weights.sum(-1, keepdims=True)
  weights /= np.where(total > 0, total, 1)
  return np.einsum('nbts,bsnh->btnh', weights, np.float64(source.v))


def test_a_model_that_looks_ahead_needs_rows_ahead():
  plain = tiny.transformer_xl(position=LearnedRelative(6))
  with pytest.raises(ValueError, match=r'Set model\.position\.ahead'):
    dataclasses.replace(plain, pattern=Everything())
  table = LearnedRelative(6, ahead=2)
  dataclasses.replace(plain, pattern=Everything(), position=table)
  with pytest.raises(ValueError, match=r'model\.position\.ahead = -1'):
    LearnedRelative(6, ahead=-1)

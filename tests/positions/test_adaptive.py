"""Adaptive attention, in both readings, is the equation it is said to be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.models.attention import averaged
from lctx.models.heads import Heads
from lctx.patterns import Causal, Dilated, Everything, Window
from lctx.positions.adaptive import (
  AdaptiveQueries,
  AdaptiveScores,
  Reweighted,
  cosines,
)
from lctx.positions.alibi import Alibi, Fall, slopes
from lctx.positions.base import Sizes
from lctx.types import EMPTY, segment_coords

B, T, S, N, H, WIDTH = 2, 5, 11, 4, 3, 6
DOCUMENTS = np.array(
  [[0] * S, [EMPTY] * 2 + [0] * 5 + [1] * 1 + [2] * 2 + [EMPTY]], np.int32
)
PATTERNS = {
  'causal': Causal(),
  'window': Window(3),
  'ahead': Window(4, 2),
  'everything': Everything(),
  'a gap for each head': Dilated(2, (1, 2, 3, 4)),
}
patterns = pytest.mark.parametrize('pattern', PATTERNS)


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def sizes(ahead=T - 1):
  return Sizes(
    width=WIDTH,
    num_heads=N,
    key_heads=N,
    head_width=H,
    distances=S,
    ahead=ahead,
    dtype=jnp.float32,
    key_width=H,
  )


def source(pattern='causal', scores=(), key_heads=N, promise=True):
  """Queries in the last slots; row 1 has empty slots and three documents."""
  k_at = segment_coords(jnp.asarray(DOCUMENTS), start=T - S)
  q_at = k_at.take(S - T, S)
  if not promise:
    q_at, k_at = q_at.replace(start=None), k_at.replace(start=None)
  q, (k, v) = normal(0, B, T, N, H), normal(1, 2, B, S, key_heads, H)
  return Source(q, k, v, q_at, k_at, tuple(scores), PATTERNS[pattern])


def seen(source):
  """Which keys a query may see, by the words of the pattern: [N, B, T, S]."""
  q_at, k_at = (
    jax.tree.map(np.asarray, at) for at in (source.q_at, source.k_at)
  )
  q, k, pattern = q_at.index[:, :, None], k_at.index[:, None], source.pattern
  gaps = getattr(pattern, 'gaps', [1] * N)
  before = getattr(pattern, 'before', S)
  after = {'Causal': 0, 'Everything': S}.get(type(pattern).__name__)
  after = pattern.after if after is None else after
  near = [
    (q - k <= before * gap) & (k - q <= after * gap) & ((q - k) % gap == 0)
    for gap in gaps
  ]
  same = q_at.document[:, :, None] == k_at.document[:, None]
  return np.stack(near) & same & (k_at.document[:, None] >= 0)


def waves(position):
  """The sinusoid of a position (Vaswani et al. 2017, section 3.5)."""
  angle = position / 10_000 ** (2 * np.arange(WIDTH // 2) / WIDTH)
  return np.concatenate([np.sin(angle), np.cos(angle)])


def alphas(source):
  """alpha of the docstring, from angles between sinusoids: [N, B, T, S]."""
  q_at, k_at = np.asarray(source.q_at.index), np.asarray(source.k_at.index)
  visible = seen(source)
  alpha = np.zeros(visible.shape)
  for n, b, i, j in zip(*np.nonzero(visible)):
    p, r = waves(q_at[b, i]), waves(k_at[b, j])
    phi = np.arccos(min(1, p @ r / np.linalg.norm(p) / np.linalg.norm(r)))
    alpha[n, b, i, j] = np.exp(np.cos(phi))
  total = alpha.sum(-1, keepdims=True)
  return alpha / np.where(total > 0, total, 1)


def softmax(s, visible):
  weights = np.where(visible, np.exp(np.where(visible, s, 0)), 0)
  total = weights.sum(-1, keepdims=True)
  return weights / np.where(total > 0, total, 1)


def per_query(x):
  """Keys or values in float64, one for each head of the queries."""
  return np.repeat(np.float64(x), N // x.shape[2], axis=2)


def reweighted(source, g, slope=0.0):
  """softmax(scores * (n alpha)^g) V, the scores with ALiBi in them."""
  q, k, v = np.float64(source.q), per_query(source.k), per_query(source.v)
  visible, alpha = seen(source), alphas(source)
  q_at, k_at = np.asarray(source.q_at.index), np.asarray(source.k_at.index)
  steps = abs(q_at[:, :, None] - k_at[:, None])
  s = np.einsum('btnh,bsnh->nbts', q, k)
  s = s - np.float64(slope).reshape(-1, 1, 1, 1) * steps
  count = visible.sum(-1, keepdims=True)
  power = np.float64(g).reshape(-1, 1, 1, 1)
  ratio = np.where(visible, count * alpha, 1) ** power
  return np.einsum('nbts,bsnh->btnh', softmax(s * ratio, visible), v)


@tiny.quick_jit
def attended(source):
  return Dense()((source,), None)


def large_g():
  return jnp.array([-1.7, 0.4, 1.1, 2.3])


def score(g=None, pattern='causal'):
  reach = PATTERNS[pattern].reach.after
  found = AdaptiveScores().score(
    lambda *_: large_g() if g is None else g,
    sizes(T - 1 if reach is None else min(reach, T - 1)),
  )
  assert isinstance(found, Reweighted)
  return found


@pytest.mark.parametrize('ahead', [0, 3])
def test_a_cosine_is_that_of_the_angle_between_two_sinusoids(ahead, close):
  relative = cosines(sizes(ahead))
  assert relative.ahead == ahead
  for row, got in enumerate(np.asarray(relative.c_PN)):
    steps = row - ahead
    p, r = waves(100), waves(100 - steps)
    close(got, [p @ r / (np.linalg.norm(p) * np.linalg.norm(r))], 1e-6)


@patterns
def test_scores_are_multiplied_as_the_equation_says(pattern, close):
  """With few keys for many queries, and a position before it."""
  fall = Fall(jnp.asarray(slopes(N)))
  scores = [fall, score(pattern=pattern)]
  whole = source(pattern, scores, 2, promise=pattern != 'ahead')
  close(attended(whole), reweighted(whole, large_g(), fall.slope_N))


@pytest.mark.parametrize('kernel', [Dense(), Chunked(2, 4)], ids=str)
@pytest.mark.parametrize('pattern', ['causal', 'a gap for each head'])
def test_a_power_of_zero_changes_no_bit(pattern, kernel):
  @tiny.quick_jit
  def attended(source):
    return kernel((source,), None)

  plain = source(pattern)
  untouched = source(pattern, [score(jnp.zeros(N), pattern)])
  got, want = attended(untouched), attended(plain)
  assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


@patterns
def test_the_gradient_of_a_power_is_that_of_the_equation(pattern, close):
  whole, dy = source(pattern, [score(pattern=pattern)]), normal(2, B, T, N, H)

  @tiny.quick_jit
  def gradient(source):
    def loss(g_N):
      changed = source.replace(scores=(source.scores[0].replace(g_N=g_N),))
      return (Dense()((changed,), None) * dy).sum()

    return jax.grad(loss)(large_g())

  found, g, nudge = [], np.float64(large_g()), 1e-6
  for n in range(N):
    up, down = (g + sign * nudge * np.eye(N)[n] for sign in (1, -1))
    change = reweighted(whole, up) - reweighted(whole, down)
    found.append((change * np.float64(dy)).sum() / (2 * nudge))
  assert np.abs(found).min() > 1e-3
  close(gradient(whole), np.array(found))


def carried_queries(key_heads):
  """A source whose keys carry queries, and those queries [B, S, N, H]."""
  plain, queries = source(key_heads=key_heads), normal(3, B, S, N, H)
  beside = queries.reshape(B, S, key_heads, -1)
  k = jnp.concatenate([plain.k, beside], axis=-1)
  return plain.replace(k=k), queries


def with_averages(source, queries, slope):
  """softmax((alpha Q) K^T) V, with ALiBi."""
  alpha, visible = alphas(source), seen(source)
  q = np.einsum('nbts,bsnh->btnh', alpha, np.float64(queries))
  k, v = per_query(source.k[..., :H]), per_query(source.v)
  q_at, k_at = np.asarray(source.q_at.index), np.asarray(source.k_at.index)
  steps = abs(q_at[:, :, None] - k_at[:, None])
  s = np.einsum('btnh,bsnh->nbts', q, k)
  s -= np.float64(slope).reshape(-1, 1, 1, 1) * steps
  return np.einsum('nbts,bsnh->btnh', softmax(s, visible), v)


@pytest.mark.parametrize(
  'pattern, key_heads', [*zip(PATTERNS, (4, 2, 1, 2, 1)), ('causal', 1)]
)
def test_queries_are_averaged_as_the_equation_says(pattern, key_heads, close):
  """And it matters that they are: those that came in are not used."""
  whole, queries = carried_queries(key_heads)
  fall = Fall(jnp.asarray(slopes(N)))
  whole = whole.replace(pattern=PATTERNS[pattern], scores=(fall,))
  average = AdaptiveQueries().average(sizes())

  @tiny.quick_jit
  def attended(source):
    return Dense()(averaged((source,), average, H, Dense()), None)

  got = attended(whole)
  close(got, with_averages(whole, queries, fall.slope_N))
  plain = whole.replace(k=whole.k[..., :H])
  assert np.abs(got - Dense()((plain,), None)).max() > 1e-2


def test_powers_begin_at_nothing_for_every_head():
  found = []

  def param(name, shape, axes, init):
    found.append((name, shape, axes))
    return init(jax.random.key(0), shape, jnp.float32)

  assert not AdaptiveScores().score(param, sizes()).g_N.any()
  assert found == [('adaptive', (N,), ('heads',))]
  assert AdaptiveScores().average(sizes()) is None
  assert AdaptiveQueries().score(param, sizes()) is None


@pytest.mark.parametrize('adaptive', [AdaptiveScores(), AdaptiveQueries()])
def test_a_width_without_sinusoids_is_refused(adaptive):
  plain = tiny.transformer_xl(width=9, num_heads=3, position=Alibi())
  with pytest.raises(ValueError, match=r'model\.embed\.width = 9 must be even'):
    dataclasses.replace(plain, heads=Heads(adaptive=adaptive))

"""A span is a soft mask: weights times it, and divided by their new sum."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.models.heads import Heads
from lctx.patterns import Causal, Everything, Window
from lctx.positions.base import Sizes
from lctx.positions.span import AdaptiveSpan, Span
from lctx.types import EMPTY, segment_coords

B, T, S, N, H = 2, 5, 12, 4, 3
PATTERNS = {'causal': Causal(), 'window': Window(8), 'both ways': Everything()}
SPANS = jnp.array([0.0, 0.4, 2.7, 40.0])


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def source(pattern='causal', scores=()):
  """Queries in the last slots; row 1 has empty ones and two documents."""
  document = jnp.zeros((B, S), jnp.int32).at[1, :2].set(EMPTY)
  k_at = segment_coords(document.at[1, -2:].set(1), start=T - S)
  q, (k, v) = normal(0, B, T, N, H), normal(1, 2, B, S, N, H)
  q_at = k_at.take(S - T, S)
  return Source(q, k, v, q_at, k_at, tuple(scores), PATTERNS[pattern])


def steps_and_seen(source):
  """Steps from key back to query [B, T, S], and which keys may be seen."""
  q_at, k_at = (
    jax.tree.map(np.asarray, at) for at in (source.q_at, source.k_at)
  )
  steps = q_at.index[:, :, None] - k_at.index[:, None]
  before, after = (S if x is None else x for x in source.pattern.reach)
  seen = (steps <= before) & (steps >= -after) & (k_at.document[:, None] >= 0)
  return steps, seen & (q_at.document[:, :, None] == k_at.document[:, None])


def equation(source, z, ramp):
  """Sukhbaatar et al. 2019, equations 3 and 4; x = steps between, less 1."""
  q, k, v, z = (np.float64(x) for x in (source.q, source.k, source.v, z))
  steps, seen = steps_and_seen(source)
  s = np.einsum('btnh,bsnh->nbts', q, k)
  soft = (ramp + z[:, None, None, None] - (abs(steps) - 1)) / ramp
  weights = np.exp(s) * seen
  weights /= weights.sum(-1, keepdims=True)
  weights *= np.clip(soft, 0, 1)
  weights /= weights.sum(-1, keepdims=True) + 1e-300
  return np.einsum('nbts,bsnh->btnh', weights, v)


@tiny.quick_jit
def attended(source):
  return Dense()((source,), None)


@tiny.quick_jit
def gradient(source, dy):
  """Of a weighted sum of what comes out, for each span."""

  def loss(z):
    span = dataclasses.replace(source.scores[0], z_N=z)
    return (Dense()((source.replace(scores=(span,)),), None) * dy).sum()

  return jax.grad(loss)(source.scores[0].z_N)


def differences(source, ramp, dy, nudge=1e-6):
  z, dy, found = np.float64(source.scores[0].z_N), np.float64(dy), []
  for n in range(N):
    up, down = (z + sign * nudge * np.eye(N)[n] for sign in (1, -1))
    change = equation(source, up, ramp) - equation(source, down, ramp)
    found.append((change * dy).sum() / (2 * nudge))
  return np.array(found)


@pytest.mark.parametrize('ramp', [1, 4])
@pytest.mark.parametrize('pattern', PATTERNS)
def test_weights_times_the_mask_are_normed_again(pattern, ramp, close):
  whole = source(pattern, [Span(SPANS, ramp)])
  close(attended(whole), equation(whole, SPANS, ramp))


@pytest.mark.parametrize('pattern', ['causal', 'both ways'])
def test_the_gradient_of_a_span_is_that_of_the_equation(pattern, close):
  """Where no key sits at an end of the ramp, where the mask has a corner."""
  z, dy = jnp.array([0.3, 1.6, 4.9, 0.7]), normal(3, B, T, N, H)
  whole = source(pattern, [Span(z, 4)])
  got = gradient(whole, dy)
  assert np.abs(got).min() > 1e-3
  close(got, differences(whole, 4, dy))


def test_a_span_of_nothing_can_grow(close):
  """Heads begin at 0. The keys at the corners, 1 and 5 steps back, are
  empty here; elsewhere the gradient is that of the equation."""
  whole = source(scores=[Span(jnp.zeros(N), 4)])
  k_at, q_at = whole.k_at, whole.q_at.take(T - 1, T)
  document = jnp.zeros((B, S), jnp.int32).at[:, (S - 2, S - 6)].set(EMPTY)
  whole = whole.replace(
    q=whole.q[:, -1:],
    q_at=q_at.replace(document=jnp.zeros((B, 1), jnp.int32)),
    k_at=k_at.replace(document=document),
  )
  dy = normal(3, B, 1, N, H)
  got = gradient(whole, dy)
  assert np.abs(got).min() > 1e-3
  close(got, differences(whole, 4, dy))
  rest = gradient(source(scores=[Span(jnp.zeros(N), 4)]), normal(3, B, T, N, H))
  assert np.isfinite(rest).all() and np.abs(rest).min() > 1e-3


@pytest.mark.parametrize('span', [0, 1, 4])
def test_a_whole_span_with_a_ramp_of_one_is_a_window(span, close):
  """Steps up to span + 1 count in full, none beyond: the mask is 0 or 1."""
  soft = source(scores=[Span(jnp.full(N, float(span)), 1)])
  window = source().replace(pattern=Window(span + 1))
  close(attended(soft), attended(window), 1e-6)


def test_a_span_as_long_as_the_text_changes_no_bit():
  plain = attended(source())
  soft = attended(source(scores=[Span(jnp.full(N, float(S - 2)), 4)]))
  np.testing.assert_array_equal(soft, plain)


def test_a_query_whose_keys_are_all_beyond_gets_zeros():
  whole = source(scores=[Span(jnp.zeros(N), 2)])
  far = whole.replace(q_at=whole.q_at.shifted(-20).replace(start=None))
  assert not attended(far).any()
  assert np.isfinite(gradient(far, normal(3, B, T, N, H))).all()


def sizes():
  return Sizes(
    width=N * H,
    num_heads=N,
    key_heads=N,
    head_width=H,
    distances=S,
    ahead=0,
    dtype=jnp.float32,
    key_width=H,
  )


def test_a_parameter_is_the_share_of_the_longest_span(close):
  span, share = AdaptiveSpan(50, ramp=8, penalty=0.25, start=0.5), normal(5, N)
  found = []

  def param(name, shape, axes, init):
    found.append((name, shape, axes))
    np.testing.assert_array_equal(init(None, shape, jnp.float32), [0.5] * N)
    return share

  score = span.score(param, sizes())
  assert found == [('span', (N,), ('heads',))] and score.ramp == 8
  close(score.z_N, 50 * np.float64(share), 1e-6)
  # Their code: penalty x longest x the mean of the shares.
  close(span.loss(score), 0.25 * 50 * np.float64(share).mean(), 1e-6)


@pytest.mark.parametrize('longest, ramp', [(20, 4), (7, 3)])
def test_the_effective_span_is_the_last_step_with_weight(longest, ramp):
  share = np.array([[0.1, 0.52], [0.3, 0.0]], np.float32)
  span = AdaptiveSpan(longest, ramp)
  steps = np.arange(1, 60)
  z = share.max() * np.float64(longest)
  weight = np.clip((ramp + z - (steps - 1)) / ramp, 0, 1)
  assert span.effective(share) == steps[weight > 0].max()
  assert span.effective(np.zeros((2, 2))) == ramp
  assert span.effective(np.ones((2, 2))) == longest + ramp


def test_a_model_adds_the_penalty_of_every_layer(close):
  """Whatever it reads, and it reaches the parameter."""
  span = AdaptiveSpan(9, ramp=3, penalty=0.5)
  model = tiny.transformer_xl(depth=3, num_heads=2)
  model = dataclasses.replace(model, heads=Heads(span=span))
  params = tiny.large_params(model)
  share = jnp.asarray([[0.0, 0.3], [0.55, 1.0], [0.2, 0.8]])
  layers = params['layers'] | {'span': share}
  assert params['layers']['span'].shape == share.shape

  @tiny.quick_jit
  def penalty(params):
    tokens = tiny.some_ids(2, 4)
    at, carry = segment_coords(jnp.zeros_like(tokens)), model.initial(2)

    def loss(params):
      return model.apply({'params': params}, tokens, at, carry)[2]

    return jax.value_and_grad(loss)(params)

  got, grads = penalty(params | {'layers': layers})
  close(got, 0.5 * 9 * share.mean(axis=1).sum(), 1e-6)
  slopes = grads['layers'].pop('span')
  close(slopes, np.full((3, 2), 0.5 * 9 / 2), 1e-6)
  assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_what_cannot_be_is_refused_by_name():
  for fields in ({'longest': 0}, {'longest': 4, 'ramp': 0}):
    with pytest.raises(ValueError, match=r'^model\.heads\.span\.longest = '):
      AdaptiveSpan(**fields)
  for fields in ({'start': 1.5}, {'start': -0.1}, {'penalty': -1.0}):
    with pytest.raises(ValueError, match=r'^model\.heads\.span\.start = '):
      AdaptiveSpan(8, **fields)

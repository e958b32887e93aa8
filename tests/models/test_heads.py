"""Heads share keys, are normed, and change logits in the order that is said."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.dense import Dense
from lctx.layers.norm import RMSNorm
from lctx.memory.held import Held
from lctx.memory.xl import XLCache
from lctx.models.attention import Attention, OfMemory
from lctx.models.carry import LayerCarry
from lctx.models.heads import (
  AdaptiveQueries,
  AdaptiveScores,
  AdaptiveSpan,
  Heads,
)
from lctx.patterns import Window
from lctx.positions.alibi import Alibi, slopes
from lctx.positions.base import Sizes
from lctx.types import EMPTY, segment_coords

LENGTH, SEGMENT, HEADS = 8, 4, 4
DOCUMENT = jnp.zeros((2, LENGTH), jnp.int32).at[1, 3:].set(1)


def decoder(keys, **fields):
  plain = tiny.transformer_xl(
    num_heads=HEADS, memory_length=3, pre_norm=True, **fields
  )
  return dataclasses.replace(plain, heads=Heads(keys=keys))


@functools.partial(tiny.quick_jit, static_argnums=0)
def read(model, params, ids):
  """Hidden states of two segments, and the gradient of a sum of them."""

  def weighted(params):
    carry, hidden = model.initial(2), []
    for start in range(0, LENGTH, SEGMENT):
      now = slice(start, start + SEGMENT)
      x, carry = tiny.segment_of(
        model, params, ids[:, now], DOCUMENT[:, now], carry
      )
      hidden.append(x)
    hidden = jnp.concatenate(hidden, axis=1)
    dy = np.random.default_rng(1).standard_normal(hidden.shape)
    return (hidden * jnp.asarray(dy, jnp.float32)).sum(), hidden

  grads, hidden = jax.grad(weighted, has_aux=True)(params)
  return hidden, grads


@pytest.mark.parametrize('keys', [1, 2])
def test_shared_keys_are_keys_repeated(keys, close):
  """Ainslie et al. 2023: and their gradients are the sums over the copies."""
  few, many = decoder(keys), decoder(None)
  params, ids = tiny.large_params(few), tiny.some_ids(2, LENGTH)
  attention = params['layers']['attention']
  assert attention['key'].shape == (2, 16, keys, 4)
  copies = {
    name: jnp.repeat(attention[name], HEADS // keys, axis=2)
    for name in ('key', 'value')
  }
  layers = params['layers'] | {'attention': attention | copies}
  got, grads = read(few, params, ids)
  want, wanted = read(many, params | {'layers': layers}, ids)
  close(got, want, 1e-6)
  summed = wanted['layers']['attention']
  for name in ('key', 'value'):
    apart = summed[name].reshape(2, 16, keys, HEADS // keys, 4)
    summed[name] = apart.sum(axis=3)
  jax.tree.map(close, grads, wanted)


def test_few_keys_are_carried_as_few():
  for keys, adaptive, key_width in (
    (1, None, 4),
    (2, AdaptiveScores(), 4),
    (2, AdaptiveQueries(), 4 * (1 + 2)),
    (None, AdaptiveQueries(), 4 * (1 + 1)),
  ):
    heads = Heads(keys=keys, adaptive=adaptive)
    model = dataclasses.replace(decoder(None), heads=heads).for_inference()
    k, v = jax.eval_shape(lambda m=model: m.initial(3)).layers[0].memory.states
    assert k.shape == (2, 3, 3, keys or HEADS, key_width)
    assert v.shape == (2, 3, 3, keys or HEADS, 4)


TEXT_LENGTH = 12
TEXT = np.array([[0] * 12, [0] * 3 + [1] * 6 + [2] * 3], np.int32)
MODELS = {
  'queries': (Heads(adaptive=AdaptiveQueries()), {}),
  'queries, few keys': (
    Heads(adaptive=AdaptiveQueries(), keys=1),
    {'position': Alibi(), 'pre_norm': True},
  ),
  'scores': (Heads(adaptive=AdaptiveScores(), keys=2), {}),
}


@functools.cache
def adaptive(kind):
  heads, fields = MODELS[kind]
  plain = tiny.transformer_xl(
    depth=2, num_heads=4, memory_length=TEXT_LENGTH, **fields
  )
  made = dataclasses.replace(plain, heads=heads)
  params = tiny.large_params(made)
  if 'adaptive' in params['layers']:
    g = {'adaptive': jnp.array([[-1.7, 0.4, 1.1, 2.3], [0.8, -0.9, 1.6, 3.0]])}
    params = params | {'layers': params['layers'] | g}
  return made, params


@functools.cache
def one_pass(kind):
  made, params = adaptive(kind)
  ids = tiny.some_ids(2, TEXT_LENGTH)
  return tiny.loop(made, params, ids, [TEXT_LENGTH], jnp.asarray(TEXT))[0]


@pytest.mark.parametrize(
  'kind, fast',
  [
    ('queries', True),
    ('queries, few keys', False),
    ('queries, few keys', True),
    ('scores', False),
  ],
)
def test_segments_that_remember_all_are_one_pass(kind, fast, close):
  """Queries of earlier segments are remembered, or made anew, with keys."""
  made, params = adaptive(kind)
  made = made.for_inference() if fast else made
  ids, document = tiny.some_ids(2, TEXT_LENGTH), jnp.asarray(TEXT)
  lengths = [SEGMENT] * (TEXT_LENGTH // SEGMENT)
  close(tiny.loop(made, params, ids, lengths, document)[0], one_pass(kind))


def test_tokens_that_join_an_open_segment_are_one_pass(close):
  """As they are read in decoding, with scores that were made once."""
  made, params = adaptive('queries, few keys')
  fast, ids = made.for_inference(), tiny.some_ids(2, TEXT_LENGTH)

  @tiny.quick_jit
  def read(params, ids):
    scores = fast.scores(params, SEGMENT)

    def token(carry, now):
      token_B1, document_B1, slot = now
      at = segment_coords(document_B1)
      at = at.replace(index=at.index + slot, start=None)
      at = at.replace(position=at.index)
      hidden, carry, _ = fast.apply(
        {'params': params}, token_B1, at, carry, scores
      )
      return fast.close(params, carry, scores), hidden[:, 0]

    slots = jnp.arange(TEXT_LENGTH) % SEGMENT
    columns = [x.T[:, :, None] for x in (ids, jnp.asarray(TEXT))]
    begun = fast.open(params, 2, SEGMENT)
    hidden = jax.lax.scan(token, begun, (*columns, slots))[1]
    return hidden.swapaxes(0, 1)

  close(read(params, ids), one_pass('queries, few keys'))


# One layer with everything, against its equations.

B, T, M, D, N, K, H = 2, 5, 4, 6, 4, 2, 3
SPAN, CAP, EPSILON = AdaptiveSpan(10, ramp=3), 2.5, 1e-5
SIZES = Sizes(
  width=D,
  num_heads=N,
  key_heads=K,
  head_width=H,
  distances=M + T,
  ahead=1,
  dtype=jnp.float32,
  key_width=H,
)
# What queries see: up to 6 behind and 1 ahead, of their document, not empty.
OF_MEMORY = [[0] * M, [EMPTY, 0, 0, 1]]
OF_SEGMENT = [[0] * T, [1, 1, 2, 2, EMPTY]]


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def parameters():
  return {
    'query': normal(0, D, N, H),
    'key': normal(1, D, K, H),
    'value': normal(2, D, K, H),
    'out': normal(3, N, H, D),
    'query_norm': {'scale': 1 + normal(4, H) / 2},
    'key_norm': {'scale': 1 + normal(5, H) / 2},
  }


OWN = {
  'adaptive': jnp.array([-1.2, 0.6, 1.5, 0.9]),
  'span': jnp.array([0.03, 0.2, 0.37, 1.0]),
}


def normed(x, scale):
  size = np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)
  return x / size * scale


def equations(x, memory, by_scores):
  """y [B, T, D] in float64, row by row; `by_scores`: of the two readings."""
  p = jax.tree.map(np.float64, parameters())
  g, z = np.float64(OWN['adaptive']), 10 * np.float64(OWN['span'])
  document = np.concatenate([OF_MEMORY, OF_SEGMENT], axis=1)
  both = np.concatenate([np.float64(memory), np.float64(x)], axis=1)
  q, k, v = (
    np.einsum('bsd,dnh->bsnh', both, p[name])
    for name in ('query', 'key', 'value')
  )
  q = normed(q, p['query_norm']['scale']) / np.sqrt(H)
  k = normed(k, p['key_norm']['scale'])
  y = np.zeros(x.shape)
  for b, t, n in np.ndindex(B, T, N):
    i, own = M + t, n // (N // K)
    seen = [
      j
      for j in range(max(i - 6, 0), min(i + 2, M + T))
      if document[b, j] == document[b, i] != EMPTY
    ]
    if not seen:
      continue
    steps = np.abs(i - np.array(seen))
    rates = 10_000.0 ** -(2 * np.arange(D // 2) / D)
    alpha = np.exp(np.cos(steps[:, None] * rates).mean(axis=1))
    alpha /= alpha.sum()
    asks = q[b, i, n] if by_scores else alpha @ q[b, seen, n]
    s = k[b, seen, own] @ asks - slopes(N)[n] * steps
    if by_scores:
      s = s * (len(seen) * alpha) ** g[n]
    weights = np.exp(CAP * np.tanh(s / CAP))
    weights *= np.clip((3 + z[n] - (steps - 1)) / 3, 0, 1)
    y[b, t] += (weights / weights.sum()) @ v[b, seen, own] @ p['out'][n]
  return y


@pytest.mark.parametrize('adaptive', [AdaptiveScores(), AdaptiveQueries()])
def test_a_layer_with_everything_is_its_equations(adaptive, close):
  """Norm, few keys, ALiBi; then adaptive, then the cap, then the span."""
  heads = Heads(K, RMSNorm(EPSILON), CAP, SPAN, adaptive)
  sizes = dataclasses.replace(SIZES, key_width=heads.key_width(SIZES))
  attention = Attention(sizes, heads, Window(6, 1), XLCache(M), 0.0, Dense())
  x, memory = normal(6, B, T, D), normal(7, B, M, D)
  at = segment_coords(jnp.array(OF_SEGMENT))
  carry = Held(memory, segment_coords(jnp.array(OF_MEMORY), start=-M))
  own = heads.scores(lambda name, *_: OWN[name], sizes)
  scores = Alibi().score(None, None, sizes), *own
  of_memory = OfMemory(None, None)
  args = x, at, LayerCarry(carry), scores, lambda x: x, of_memory

  @tiny.quick_jit
  def apply(params):
    return attention.apply({'params': params}, *args)[0]

  want = equations(x, memory, isinstance(adaptive, AdaptiveScores))
  close(apply(parameters()), want)


def test_heads_that_do_not_divide_are_refused_with_those_that_do():
  with pytest.raises(ValueError, match=r'^model\.heads\.keys = 0 '):
    Heads(keys=0)
  words = r'keys = 3 does not divide model\.stack\.num_heads = 4.* 1, 2, 4\.'
  with pytest.raises(ValueError, match=words):
    decoder(3)

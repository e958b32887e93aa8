"""T5's bias is what its table says of the bucket that a distance falls in."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.models.text import Decoder
from lctx.patterns import Causal, Everything, Window
from lctx.positions.base import Sizes
from lctx.positions.t5 import T5Bias
from lctx.types import segment_coords

HEADS = 3
BEHIND = [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99]
BEHIND += [113]  # where each of 32 buckets begins
ONE_SIDE = [*range(9), 12, 16, 23, 32, 46, 64, 91]  # and of 16
OTHERS = [(2, 2), (2, 9), (8, 20), (16, 100), (64, 1000)]


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def sizes(distances, ahead=0):
  return Sizes(
    width=6,
    num_heads=HEADS,
    key_heads=HEADS,
    head_width=2,
    distances=distances,
    ahead=ahead,
    dtype=jnp.float32,
    key_width=2,
  )


def starts(buckets):
  """The first index of each run of equal buckets."""
  return [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist()]


def test_buckets_begin_where_they_are_published_to():
  steps = np.arange(5001)
  behind = T5Bias().bucket(steps)
  assert starts(behind) == BEHIND
  assert behind.tolist() == sorted(behind) and set(behind) == set(range(32))
  both = T5Bias(both_ways=True)
  assert starts(both.bucket(steps)) == ONE_SIDE
  assert set(both.bucket(steps)) == set(range(16))
  ahead = both.bucket(-steps[1:])
  np.testing.assert_array_equal(ahead, 16 + both.bucket(steps[1:]))


def by_the_rule(steps, buckets, farthest, both_ways):
  """Raffel et al. 2020, section 2.1 and their code, in whole numbers.

  For n / e = (f / e)^(share), the bucket is e + floor(share x (count - e)).
  """
  base = 0
  if both_ways:
    buckets //= 2
    base = buckets if steps < 0 else 0
  n = abs(steps) if both_ways else max(steps, 0)
  exact = buckets // 2
  if n < exact:
    return base + n
  far, count = 0, buckets - exact
  while far < count - 1 and (
    n**count * exact ** (far + 1) >= farthest ** (far + 1) * exact**count
  ):
    far += 1
  return base + exact + far


@pytest.mark.parametrize('both_ways', [False, True])
def test_a_bucket_is_the_rule_for_every_distance(both_ways):
  steps = np.arange(-5000, 5001)
  want = [by_the_rule(int(n), 32, 128, both_ways) for n in steps]
  got = T5Bias(both_ways=both_ways).bucket(steps)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('buckets, farthest', OTHERS)
def test_a_bucket_is_the_rule_for_other_sizes(buckets, farthest):
  steps = np.arange(-1200, 1201)
  for sides in (1, 2):
    fields = sides * buckets, farthest, sides == 2
    want = [by_the_rule(int(n), *fields) for n in steps]
    np.testing.assert_array_equal(T5Bias(*fields).bucket(steps), want)


def blocks(position, table, sizes, back):
  """What it adds to 5 queries, `back` keys before them, with and without
  the promise that lets a row be read by a shift."""
  shared = position.once(lambda *_: table, sizes, None)
  assert (shared is None) == position.per_layer
  score = position.score(lambda *_: table, shared, sizes)
  q_at = segment_coords(jnp.zeros((1, 5), jnp.int32))
  k_at = segment_coords(jnp.zeros((1, 5 + back), jnp.int32), start=-back)
  s = jnp.zeros((HEADS, 1, 5, 5 + back))

  @tiny.quick_jit
  def both():
    vague = q_at.replace(start=None)
    return [score.block(s, None, q, k_at) - s for q in (q_at, vague)]

  return both()


@pytest.mark.parametrize('per_layer', [False, True])
@pytest.mark.parametrize('both_ways', [False, True])
@pytest.mark.parametrize('farthest, back', [(128, 200), (6, 20), (5, 0)])
def test_the_bias_of_a_logit_is_its_buckets_row(
  farthest, back, both_ways, per_layer, close
):
  """Longer and shorter than `farthest`; what lies ahead only if it may."""
  buckets = 32 if farthest == 128 else 8
  position = T5Bias(buckets, farthest, both_ways, per_layer)
  table = 3 * normal(0, buckets, HEADS)
  ahead = 4 if both_ways else 0
  want, rows = np.zeros((HEADS, 1, 5, 5 + back)), np.asarray(table)
  for i, j in np.ndindex(5, 5 + back):
    steps = back + i - j
    row = by_the_rule(steps, buckets, farthest, both_ways)
    want[:, 0, i, j] = rows[row] if steps >= 0 or both_ways else 0
  for got in blocks(position, table, sizes(5 + back, ahead), back):
    behind = back + np.arange(5)[:, None] >= np.arange(5 + back)[None]
    close(np.where(behind | both_ways, got, 0), want, 1e-6)


@pytest.mark.parametrize('per_layer', [False, True])
def test_layers_share_a_table_or_have_their_own(per_layer, close):
  position = T5Bias(8, 20, True, per_layer)
  model = tiny.transformer_xl(memory_length=3, position=position)
  model = dataclasses.replace(model, pattern=Everything())
  params, segment = tiny.large_params(model), 4
  table = (params['layers'] if per_layer else params['once'])['relative_bias']
  assert table.shape == ((2, 8, 2) if per_layer else (8, 2))
  tables = table if per_layer else [table, table]
  scores = tiny.quick_jit(lambda params: model.scores(params, segment))(params)
  q_at = segment_coords(jnp.zeros((1, segment), jnp.int32))
  k_at = segment_coords(jnp.zeros((1, 3 + segment), jnp.int32), start=-3)
  for layer in range(2):
    score = jax.tree.map(lambda x, i=layer: x[i], scores[0])[0]
    got = score.block(jnp.zeros((2, 1, 4, 7)), None, q_at, k_at)
    steps = 3 + np.arange(4)[:, None] - np.arange(7)[None]
    want = np.asarray(tables[layer])[position.bucket(steps)]
    close(got[:, 0], want.transpose(2, 0, 1), 1e-6)

  @tiny.quick_jit
  def both(params, tokens):
    """Hidden states by those scores, and by what the model makes itself."""
    at, carry = segment_coords(jnp.zeros_like(tokens)), model.initial(2)
    return [
      model.apply({'params': params}, tokens, at, carry, given)[0]
      for given in (scores, None)
    ]

  close(*both(params, tiny.some_ids(2, segment)), 1e-6)


def test_what_cannot_be_is_refused_by_name():
  for fields, name in (
    ({'buckets': 31}, 'buckets = 31'),
    ({'buckets': 0}, 'buckets = 0'),
    ({'buckets': 6, 'both_ways': True}, 'buckets = 6'),
    ({'farthest': 16}, 'farthest = 16'),
    ({'farthest': 8, 'both_ways': True}, 'farthest = 8'),
  ):
    with pytest.raises(ValueError, match=rf'^model\.position\.{name}'):
      T5Bias(**fields)
  T5Bias(farthest=17)
  T5Bias(farthest=9, both_ways=True)


@pytest.mark.parametrize('pattern', [Everything(), Window(2, 1)])
def test_a_model_that_looks_ahead_needs_buckets_ahead(pattern):
  def model(pattern, position) -> Decoder:
    model = tiny.transformer_xl(position=position)
    return dataclasses.replace(model, pattern=pattern)

  with pytest.raises(ValueError, match=r'model\.position\.both_ways=true'):
    model(pattern, T5Bias())
  model(pattern, T5Bias(both_ways=True))
  model(Causal(), T5Bias())

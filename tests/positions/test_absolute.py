"""Positions of tokens in their document: by table, by waves, and their end."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.positions.absolute import Learned, NoPosition, Sinusoidal
from lctx.types import offsets, segment_coords

WIDTH, LENGTH = 6, 12
# Row 0 is one document; row 1 begins two more; row 2 has padding before one.
DOCUMENT = jnp.array(
  [
    [0] * 12,
    [0] * 5 + [1] * 1 + [2] * 6,
    [3] * 4 + [-1] * 2 + [4] * 6,
  ],
  jnp.int32,
)
OFFSET = [
  [*range(12)],
  [*range(5), 0, *range(6)],
  [*range(4), 0, 0, *range(6)],
]


def normal(seed, *shape):
  values = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(values, jnp.float32)


def wave(offset, width):
  """Vaswani et al. 2017, section 3.5; sines first, then cosines."""
  angles = [offset / 10_000 ** (2 * i / width) for i in range(width // 2)]
  return [*map(math.sin, angles), *map(math.cos, angles)]


TABLE = np.asarray(normal(0, 40, WIDTH))
SCHEMES = {
  'learned': (Learned(40), lambda offset: TABLE[offset]),
  'sinusoidal': (Sinusoidal(), lambda offset: wave(offset, WIDTH)),
}
schemes = pytest.mark.parametrize('scheme', SCHEMES)


def embed(position, x, at):
  def param(name, shape, axes):
    assert (name, axes) == ('table', ('positions', 'width'))
    return jnp.asarray(TABLE[: shape[0]])

  return position.embed(param, x, at)


@schemes
def test_a_token_gets_the_vector_of_its_place_in_its_document(scheme, close):
  position, vector = SCHEMES[scheme]
  x = normal(1, *DOCUMENT.shape, WIDTH)
  want = np.float64(x)
  for b, i in np.ndindex(*DOCUMENT.shape):
    want[b, i] += vector(OFFSET[b][i])
  close(embed(position, x, segment_coords(DOCUMENT, start=50)), want, 1e-6)


@schemes
def test_places_go_on_from_the_token_before(scheme, close):
  """Row 0 goes on in its document at 20, row 1 begins another there."""
  position, vector = SCHEMES[scheme]
  x, at = normal(1, *DOCUMENT.shape, WIDTH), segment_coords(DOCUMENT)
  last = jnp.array([0, 7, 3]), jnp.array([19, 19, 19])
  at = at.replace(offset=offsets(DOCUMENT, *last))
  want = np.float64(x)
  for b, i in np.ndindex(*DOCUMENT.shape):
    earlier = 20 if b == 0 or (b == 2 and i < 4) else 0
    want[b, i] += vector(OFFSET[b][i] + earlier)
  close(embed(position, x, at), want, 1e-6)


@pytest.mark.parametrize('position', [Learned(7), Sinusoidal(7)])
def test_past_the_limit_is_not_a_number(position, close):
  x, at = normal(1, *DOCUMENT.shape, WIDTH), segment_coords(DOCUMENT)
  got = embed(position, x, at)
  past = np.asarray(OFFSET) >= 7
  assert position.limit == 7 and past.sum() == 5
  np.testing.assert_array_equal(np.isnan(got), past[..., None] | (got != got))
  assert np.isnan(got[past]).all()
  whole = embed(dataclasses.replace(position, length=40), x, at)
  close(got[~past], whole[~past], 1e-6)


def test_the_table_learns_what_was_read_and_nothing_else(close):
  x, at = normal(1, *DOCUMENT.shape, WIDTH), segment_coords(DOCUMENT)
  dy, position = normal(2, *x.shape), Learned(20)
  gradient = jax.grad(
    lambda table: (position.embed(lambda *_: table, x, at) * dy).sum()
  )(jnp.asarray(TABLE[:20]))
  want, dy = np.zeros((20, WIDTH)), np.asarray(dy)
  for b, i in np.ndindex(*DOCUMENT.shape):
    want[OFFSET[b][i]] += dy[b, i]
  close(gradient, want, 1e-6)


@pytest.mark.parametrize('width', [2, 512])
def test_waves_are_as_exact_as_is_said(width):
  """Off by 1e-3 or so at 20,000, and by nothing to speak of at 100."""
  for offset, tolerance in ((100, 2e-5), (20_000, 3e-3)):
    at = segment_coords(jnp.zeros((1, 1), jnp.int32))
    at = at.replace(offset=jnp.full((1, 1), offset))
    got = Sinusoidal().embed(None, jnp.zeros((1, 1, width)), at)[0, 0]
    np.testing.assert_allclose(got, wave(offset, width), atol=tolerance)


@schemes
def test_short_numbers_get_short_vectors(scheme):
  x, at = normal(1, *DOCUMENT.shape, WIDTH), segment_coords(DOCUMENT)
  position, _ = SCHEMES[scheme]
  got = embed(position, x.astype(jnp.bfloat16), at)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float32(got), embed(position, x, at), atol=0.04, rtol=0.02
  )


def model(position, memory_length=LENGTH):
  return tiny.transformer_xl(
    depth=1, memory_length=memory_length, position=position
  )


@schemes
def test_segments_with_memory_count_as_one_pass_does(scheme, close):
  """Restarting in every document, wherever segments end."""
  whole = model(SCHEMES[scheme][0])
  params, ids = tiny.large_params(whole), tiny.some_ids(3, LENGTH)
  want, _ = tiny.loop(whole, params, ids, [LENGTH], DOCUMENT)
  got, _ = tiny.loop(whole, params, ids, [4] * 3, DOCUMENT)
  held = np.asarray(DOCUMENT) >= 0
  close(got[held], want[held])
  alone, _ = tiny.loop(whole, params, ids[1:2, 4:8], [4], DOCUMENT[1:2, 4:8])
  assert np.abs(alone[0, 0] - got[1, 4]).max() > 1e-2  # place 4, not place 0
  # Place 0 in both, whose query sees itself alone:
  close(alone[0, 1], got[1, 5])


def test_a_memory_of_one_token_knows_how_far_the_document_is():
  """And without memory each segment begins a document."""
  ids, document = jnp.full((1, 1), 7), jnp.zeros((1, 1), jnp.int32)
  for memory_length, places in ((1, [0, 1, None]), (0, [0, 0, 0])):
    short, found = model(Learned(2), memory_length), []
    params, carry = tiny.large_params(short), short.initial(1)
    for _ in places:
      hidden, carry = tiny.jitted_segment(short, params, ids, document, carry)
      found.append(hidden)
    for hidden, place in zip(found, places):
      assert np.isnan(hidden).all() == (place is None)
      if place is not None:
        assert (hidden == found[0]).all() == (place == 0)


def test_past_its_limit_a_model_is_not_a_number_and_never_wrong():
  """Not even where a segment has the limit in it."""
  short, long = model(Learned(5)), model(Learned(LENGTH))
  params, ids = tiny.large_params(long), tiny.some_ids(3, LENGTH)
  want, _ = tiny.loop(long, params, ids, [4] * 3, DOCUMENT)
  params = params | {'placed': {'table': params['placed']['table'][:5]}}
  got, _ = tiny.loop(short, params, ids, [4] * 3, DOCUMENT)
  past = np.asarray(OFFSET) >= 5
  assert np.isnan(got[past]).all() and np.isfinite(got[0, :4]).all()
  lost = np.isnan(got).any(axis=-1)
  np.testing.assert_allclose(got[~lost], want[~lost], atol=1e-5)


def test_rows_without_text_pass_no_limit(close):
  """However long they are, and whatever reads there afterwards."""
  short, ids = model(Learned(5)), tiny.some_ids(1, LENGTH)
  params = tiny.large_params(short)
  document = jnp.array([[-1] * 9 + [0] * 3], jnp.int32)
  for segment in (4, LENGTH):
    cut = [segment] * (LENGTH // segment)
    got, _ = tiny.loop(short, params, ids, cut, document)
    assert np.isfinite(got).all()
    alone, _ = tiny.loop(short, params, ids[:, 9:], [3], document[:, 9:])
    close(got[:, 9:], alone)


def test_no_position_adds_nothing():
  x, at = normal(1, *DOCUMENT.shape, WIDTH), segment_coords(DOCUMENT)
  assert NoPosition().embed(None, x, at) is x
  assert NoPosition().limit is None


def test_what_cannot_be_is_refused_by_name():
  for kind in (Learned, Sinusoidal):
    with pytest.raises(ValueError, match=r'^model\.position\.length = 0'):
      kind(0)
  with pytest.raises(ValueError, match=r'model\.embed\.width = 3 must be even'):
    tiny.transformer_xl(width=3, num_heads=1, position=Sinusoidal())

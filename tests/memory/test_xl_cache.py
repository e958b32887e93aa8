"""What the cache holds, what it forgets, and that its two carriers agree."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.memory.held import Segment
from lctx.memory.xl import XLCache
from lctx.positions.base import Sizes
from lctx.positions.xl import LearnedRelative
from lctx.types import segment_coords

ROWS, SEGMENT, COUNT = 3, 4, 4
SIZES = Sizes(
  width=1,
  num_heads=1,
  key_heads=1,
  head_width=1,
  distances=0,
  ahead=0,
  dtype=jnp.float32,
  key_width=1,
)
KINDS = {
  'shorter than a segment': {'memory_length': 3},
  'longer than a segment': {
    'memory_length': 9,
    'pre_norm': True,
    'clamp': 5,
    'per_layer_biases': True,
  },
  'same length, learned': {
    'memory_length': 6,
    'same_length': True,
    'position': LearnedRelative(8),
  },
}


@pytest.mark.parametrize('length', [0, 1, 3, 4, 5, 11])
def test_the_cache_holds_the_last_states_in_order(length):
  memory = XLCache(length)
  carry = memory.initial(1, SIZES, jnp.float32)
  for start in range(0, 9, 3):
    x = jnp.arange(start, start + 3, dtype=jnp.float32)[None, :, None] + 1
    at = segment_coords(jnp.full((1, 3), start, jnp.int32))
    segment = Segment(x, x, x, x, at)
    carry, penalty = memory.write(None, carry, segment, None)
    assert penalty == 0
  want = np.arange(9 - length, 9)
  held = np.where(want >= 0, want + 1, 0)
  np.testing.assert_array_equal(carry.states[0, :, 0], held)
  np.testing.assert_array_equal(carry.at.index[0], want - 9)
  np.testing.assert_array_equal(carry.at.position[0], want - 9)
  document = np.where(want >= 0, want // 3 * 3, -1)
  np.testing.assert_array_equal(carry.at.document[0], document)
  assert carry.at.start == -length


def history(model, params, documents=None):
  """The carry after `COUNT` segments of random text."""
  ids = tiny.some_ids(ROWS, SEGMENT * COUNT)
  return tiny.loop(model, params, ids, [SEGMENT] * COUNT, documents)[1]


def after(model, params, carry, ids=None):
  """Hidden states of one more segment."""
  ids = tiny.some_ids(ROWS, SEGMENT, seed=1) if ids is None else ids
  return tiny.jitted_segment(model, params, ids, jnp.zeros_like(ids), carry)[0]


@pytest.mark.parametrize('kind', KINDS)
def test_both_carriers_of_memory_say_the_same(kind, close):
  model = tiny.transformer_xl(**KINDS[kind])
  params, fast = tiny.large_params(model), model.for_inference()
  ids = tiny.some_ids(ROWS, SEGMENT * COUNT)
  document = jnp.zeros_like(ids).at[1, 6:].set(1).at[2, 8:].set(1)
  lengths = [SEGMENT] * COUNT
  want, _ = tiny.loop(model, params, ids, lengths, document)
  got, _ = tiny.loop(fast, params, ids, lengths, document)
  close(got, want)
  scores, carry, out = fast.scores(params, SEGMENT), fast.initial(ROWS), []

  @tiny.quick_jit
  def segment(tokens, document, carry):
    at = segment_coords(document)
    return fast.apply({'params': params}, tokens, at, carry, scores)[:2]

  for start in range(0, SEGMENT * COUNT, SEGMENT):
    now = slice(start, start + SEGMENT)
    hidden, carry = segment(ids[:, now], document[:, now], carry)
    out.append(hidden)
  close(jnp.concatenate(out, axis=1), want)


def models():
  model = tiny.transformer_xl(memory_length=6)
  return model, model.for_inference()


@pytest.mark.parametrize('model', models(), ids=['hidden', 'projected'])
def test_forgotten_rows_read_as_new_ones_and_the_rest_as_before(model, close):
  params = tiny.large_params(model)
  carry = history(model, params)
  forgot = model.forget(carry, jnp.array([True, False, True]))
  fresh = after(model, params, model.initial(ROWS))
  kept = after(model, params, carry)
  got = after(model, params, forgot)
  close(got, jnp.stack([fresh[0], kept[1], fresh[2]]), 1e-6)
  assert np.abs(fresh - kept).max(axis=(1, 2)).min() > 1e-2


@pytest.mark.parametrize('model', models(), ids=['hidden', 'projected'])
def test_an_exchanged_row_reads_as_if_it_had_the_others_past(model, close):
  params = tiny.large_params(model)
  carry, rows = history(model, params), jnp.array([2, 0, 1])
  ids = tiny.some_ids(ROWS, SEGMENT, seed=1)
  got = after(model, params, model.exchange(carry, rows), ids)
  back = jnp.argsort(rows)
  want = after(model, params, carry, ids[back])[rows]
  close(got, want, 1e-6)
  assert np.abs(got - after(model, params, carry, ids)).max() > 1e-2


def test_an_exchanged_row_sees_no_more_slots_than_its_own(close):
  model = tiny.transformer_xl(memory_length=6)
  params = tiny.large_params(model)
  document = jnp.full((ROWS, SEGMENT * COUNT), -1).at[1:].set(0)
  document = document.at[0, -2:].set(0)  # row 0 began two tokens ago
  carry = history(model, params, document)
  got = after(model, params, model.exchange(carry, jnp.array([1, 1, 2])))
  memory = carry.layers[0].memory
  at = memory.at
  recent = at.replace(document=at.document.at[:, 1, :-2].set(-1))
  shorter = tiny.with_memory(carry, memory.replace(at=recent))
  ids = tiny.some_ids(ROWS, SEGMENT, seed=1)
  want = after(model, params, shorter, ids.at[1].set(ids[0]))
  close(got[0], want[1], 1e-6)


def test_lengths_that_cannot_be_are_refused():
  with pytest.raises(ValueError, match=r'model\.memory\.length = -1'):
    XLCache(-1)
  with pytest.raises(ValueError, match=r'model\.memory\.same_length = true'):
    XLCache(0, same_length=True)

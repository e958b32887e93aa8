"""A document sees nothing of the one before it, wherever it begins."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.positions.xl import LearnedRelative
from lctx.types import segment_coords

SEGMENT, LENGTH = 5, 15
# Where documents begin in each row: inside a segment, at a border, in the
# last slot of one, twice in one, and nowhere.
STARTS = ([7], [5], [4, 13], [1, 3], [])
KINDS = {
  'staircase': {'memory_length': 7, 'pre_norm': True, 'clamp': 3},
  'same length': {
    'memory_length': 4,
    'same_length': True,
    'position': LearnedRelative(6),
  },
}


def documents():
  """Document of each token: int32 [rows, LENGTH]."""
  found = np.zeros((len(STARTS), LENGTH), np.int32)
  for row, starts in enumerate(STARTS):
    for start in starts:
      found[row, start:] += 1
  return jnp.asarray(found)


@pytest.mark.parametrize('kind', KINDS)
def test_a_document_reads_as_it_would_alone(kind, close):
  model = tiny.transformer_xl(**KINDS[kind])
  params, ids = tiny.large_params(model), tiny.some_ids(len(STARTS), LENGTH)
  borders = [SEGMENT] * (LENGTH // SEGMENT)
  together, _ = tiny.loop(model, params, ids, borders, documents())
  for row, starts in enumerate(STARTS):
    edges = [0, *starts, LENGTH]
    for start, stop in itertools.pairwise(edges):
      inside = [b for b in range(0, LENGTH, SEGMENT) if start < b < stop]
      lengths = np.diff([start, *inside, stop]).tolist()
      alone, _ = tiny.loop(
        model, params, ids[row : row + 1, start:stop], lengths
      )
      close(together[row : row + 1, start:stop], alone)


def test_an_empty_memory_is_not_there_however_long():
  """Were it zeros, they would take their share of attention."""
  first, control = [], []
  for memory_length in (0, 3, 8):
    model = tiny.transformer_xl(memory_length=memory_length)
    params, ids = tiny.large_params(model), tiny.some_ids(2, 1)
    document = jnp.zeros_like(ids)
    carry = model.initial(2)
    hidden, _ = tiny.jitted_segment(model, params, ids, document, carry)
    first.append(tiny.log_probs(model, params, hidden))
    memory = carry.layers[0].memory
    zeros = jnp.zeros_like(memory.at.document)
    memory = memory.replace(at=memory.at.replace(document=zeros))
    carry = tiny.with_memory(carry, memory)
    hidden, _ = tiny.jitted_segment(model, params, ids, document, carry)
    control.append(tiny.log_probs(model, params, hidden))
  for found in first[1:]:
    np.testing.assert_allclose(found, first[0], rtol=0, atol=1e-5)
  assert np.abs(control[2] - control[0]).max() > 1e-2


def test_padding_in_a_row_changes_no_other_row(close):
  model = tiny.transformer_xl(memory_length=4)
  params, ids = tiny.large_params(model), tiny.some_ids(2, SEGMENT)
  whole = jnp.zeros_like(ids)
  padded = whole.at[1, 2:].set(-1)
  carry = model.initial(2)
  want, _ = tiny.jitted_segment(model, params, ids, whole, carry)
  got, _ = tiny.jitted_segment(model, params, ids, padded, carry)
  close(got[0], want[0], 1e-6)
  close(got[1, :2], want[1, :2], 1e-6)
  assert np.isfinite(got).all()


def test_a_padding_slot_of_memory_is_never_seen():
  model = tiny.transformer_xl(memory_length=SEGMENT)
  params, ids = tiny.large_params(model), tiny.some_ids(2, SEGMENT)
  document = jnp.zeros_like(ids).at[:, 3:].set(-1)
  other = ids.at[:, 3:].set((ids[:, 3:] + 1) % 29)
  read = []
  for history in (ids, other):
    _, carry = tiny.jitted_segment(
      model, params, history, document, model.initial(2)
    )
    at = segment_coords(jnp.zeros_like(ids))
    read.append(tiny.jitted_segment(model, params, ids, at.document, carry)[0])
  jax.tree.map(np.testing.assert_array_equal, *read)

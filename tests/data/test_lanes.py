"""Lanes are contiguous, count documents, and need only the step's number."""

from pathlib import Path

import numpy as np
import pytest

from lctx.data import Lanes, Store, batch, check


def store(lengths) -> Store:
  """Documents of these lengths whose tokens are 0, 1, 2, ..."""
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  none = np.zeros(len(lengths), np.int64)
  tokens = np.arange(offsets[-1])
  return Store(Path(), '', tokens, offsets, none, none, none)


def test_a_row_begins_where_it_ended_and_targets_are_one_ahead():
  arange, rows, length = store([100]), 4, 6  # lanes of 25
  first, second = (batch(arange, rows, length, step) for step in (0, 1))
  assert first.tokens[:, 0].tolist() == [0, 25, 50, 75]
  np.testing.assert_array_equal(second.tokens[:, 0], first.tokens[:, -1] + 1)
  np.testing.assert_array_equal(first.targets, first.tokens + 1)
  assert first.tokens.dtype == first.targets.dtype == np.int32


@pytest.mark.parametrize('length', [1, 4, 5, 7, 24, 25])
def test_a_pass_predicts_every_token_of_a_lane_once_but_its_first(length):
  arange, rows, lane = store([40, 38]), 3, 26
  steps = -(-lane // length)
  batches = [batch(arange, rows, length, step) for step in range(steps)]
  together = [np.concatenate(a, axis=1) for a in zip(*map(parts, batches))]
  tokens, targets, weight = (array[:, :lane] for array in together)
  for row in range(rows):
    wanted = np.arange(row * lane, (row + 1) * lane)
    np.testing.assert_array_equal(tokens[row], wanted)
    np.testing.assert_array_equal(targets[row, weight[row] > 0], wanted[1:])
  assert weight.sum() == rows * (lane - 1)


def parts(batch):
  return batch.tokens, batch.targets, batch.weight


def test_hosts_that_take_their_rows_see_the_global_batch():
  documents = store([5, 9, 30, 1, 22])
  for step in (0, 3, 17):
    whole = batch(documents, 6, 4, step)
    for take in (slice(0, 3), slice(3, 6), slice(1, 6, 2)):
      mine = batch(documents, 6, 4, step, take)
      for field in ('tokens', 'targets', 'document', 'weight'):
        np.testing.assert_array_equal(
          getattr(mine, field), getattr(whole, field)[take]
        )


def test_documents_count_up_along_a_lane_and_past_its_end():
  # Lanes of 10: [0..9] holds 3 and a part of 20; [10..19] is inside it;
  # [20..29] has its end and two more. The second batch wraps.
  documents = store([3, 20, 4, 3])
  first, second = (batch(documents, 3, 8, step) for step in (0, 1))
  assert first.document.tolist() == [
    [0, 0, 0, 1, 1, 1, 1, 1],
    [0, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 1, 1, 1, 1, 2],
  ]
  assert second.document.tolist() == [
    [1, 1, 2, 2, 2, 3, 3, 3],
    [0, 0, 1, 1, 1, 1, 1, 1],
    [2, 2, 3, 3, 3, 4, 4, 4],
  ]
  assert second.tokens[0].tolist() == [8, 9, 0, 1, 2, 3, 4, 5]
  assert second.weight[0].tolist() == [1, 0, 1, 1, 1, 1, 1, 1]


def test_a_late_batch_is_that_of_walking_there():
  documents = store([3, 8, 1, 1, 17])
  walked = np.concatenate(
    [batch(documents, 2, 7, step).document for step in range(40)], axis=1
  )
  steps = np.diff(walked)
  assert set(np.unique(steps)) == {0, 1}
  lane, touched = 15, [5, 1]  # a new beginning is a new document
  assert walked[:, lane * 10].tolist() == [10 * n for n in touched]


def test_a_store_too_short_for_the_rows_says_what_fits():
  lanes = Lanes(rows=8, segment=16, segments=2)
  lanes.check(store([256]))
  with pytest.raises(ValueError) as error:
    lanes.check(store([255]))
  for word in (
    'data.rows=8',
    'data.segment',
    '255',
    '256',
    'most 7',
    'most 31',
  ):
    assert word in str(error.value)
  with pytest.raises(ValueError, match=r'3 tokens'):
    check(store([3]), 4, 1)


@pytest.mark.parametrize('field', ['rows', 'segment', 'segments'])
def test_nothing_of_a_batch_can_be_zero(field):
  with pytest.raises(ValueError, match=rf'data.{field}=0'):
    Lanes(**{field: 0})

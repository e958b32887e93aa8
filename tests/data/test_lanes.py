"""Lanes are contiguous, count documents, and need only the step's number."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lctx.data import Lanes, Store, batch, check
from lctx.data.byte_codec import ByteCodec
from lctx.data.objectives import (
  Bart,
  GapSentences,
  MaskedLM,
  PrefixLM,
  SpanCorruption,
)
from lctx.types import EMPTY


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


CODEC = ByteCodec(range(256))


def opened(lengths, seed=0) -> Store:
  """Documents of these lengths, each a 0 and then random letters."""
  plain = store(np.array(lengths) + 1)
  rng = np.random.default_rng(seed)
  tokens = rng.integers(97, 123, len(plain.tokens))
  tokens[plain.offsets[:-1]] = 0
  return dataclasses.replace(plain, tokens=tokens)


def pieces(lanes, documents, rows):
  """The texts of the first rows: cut where a 0 is, and without it in pairs."""
  lane = len(documents.tokens) // lanes.rows
  for number in range(rows):
    step, row = divmod(number, lanes.rows)
    first = row * lane + step * lanes.stretch
    tokens = documents.tokens[first : first + lanes.stretch]
    found = np.split(tokens, np.flatnonzero(tokens == 0))
    found = [piece for piece in found if len(piece)]
    if lanes.objective.pairs:
      found = [piece[int(piece[0] == 0) :] for piece in found]
    yield step, row, [len(piece) for piece in found]


@pytest.mark.parametrize('alone', [False, True])
def test_what_finds_no_room_is_counted_to_the_token(alone):
  """BART writes a text whole, between two marks."""
  lengths = np.random.default_rng(1).choice([0, 1, 2, 3, 9, 20, 70], 900)
  documents = opened(lengths)
  lanes = Lanes(rows=3, segment=40, objective=Bart(), alone=alone)
  found = lanes.room(documents, CODEC, 32)
  total = outside = texts = short = 0
  for step, row, sizes in pieces(lanes, documents, 32):
    one = lanes.batch(documents, CODEC, step, slice(row, row + 1))
    held = len(set(one.document[0][one.weight[0] > 0]))
    written = int(one.weight.sum()) - 2 * held
    total, texts = total + sum(sizes), texts + len(sizes)
    short += sum(size < 2 for size in sizes)
    outside += sum(size for size in sizes if size > 1) - written
  assert found == (32, total, outside, texts, short)
  assert 0.02 < outside / total < 0.6 and 10 < short < texts / 2


def test_where_every_text_has_room_none_is_outside():
  documents = opened([0, 5, 1, 30] * 20)
  lanes = Lanes(rows=2, segment=16, objective=MaskedLM(kept=(0,)))
  found = lanes.room(documents, CODEC, 20)
  sizes = [x for *_, of_row in pieces(lanes, documents, 20) for x in of_row]
  assert found.outside == 0 and found.texts == len(sizes)
  assert found.short == sum(size < 2 for size in sizes) > 0
  assert found.tokens == sum(sizes) == 20 * 16


def test_a_short_store_is_counted_once():
  lanes = Lanes(rows=2, segment=16, objective=MaskedLM())
  found = lanes.room(opened([39, 39]), CODEC, 32)
  assert (found.rows, found.tokens) == (4, 64)


@pytest.mark.parametrize(
  'objective',
  [PrefixLM(), MaskedLM(), SpanCorruption(), Bart(), GapSentences()],
)
def test_documents_of_one_token_fill_rows_without_weight(objective):
  """Pairs do without the mark before them, so one token is left of each."""
  lanes = Lanes(rows=2, segment=12, objective=objective)
  for length in (0, 1):
    documents = opened([length] * 200)
    empty = length == 0 or objective.pairs
    for step in range(3):
      one = lanes.batch(documents, CODEC, step)
      assert (one.document == EMPTY).all() == empty
      assert (one.weight.sum() == 0) == empty
      assert np.isfinite(one.weight).all()
    found = lanes.room(documents, CODEC, 6)
    assert (found.short == found.texts) == empty


def test_texts_that_are_kept_as_a_whole_are_left_out_and_counted():
  """Else a run would end at the first of them."""
  documents = opened([1, 6] * 30)  # 9 tokens with their marks
  documents.tokens[documents.tokens == 97] = 98
  documents.tokens[documents.offsets[:-1:2] + 1] = 97
  lanes = Lanes(rows=1, segment=27, objective=MaskedLM(kept=(0, 97)))
  found = lanes.room(documents, CODEC, 9)
  assert (found.short, found.texts, found.outside) == (27, 54, 0)
  one = lanes.batch(documents, CODEC, 0)
  assert (one.document >= 0).sum() == 3 * 7

"""Padded rows: every token of text once, after the token before it."""

import dataclasses

import numpy as np
import pytest

from lctx.evaluation import rows as rows_module
from lctx.evaluation.rows import Rows, by_document, by_lane
from lctx.types import EMPTY

MARK = 0


@dataclasses.dataclass
class Texts:
  """What rows read of a store."""

  tokens: np.ndarray
  offsets: np.ndarray


def store_of(*lengths: int) -> Texts:
  """Documents of so many text tokens; every text token is another number."""
  ids, offsets, after = [], [0], 1
  for length in lengths:
    ids += [MARK, *range(after, after + length)]
    after += length
    offsets.append(len(ids))
  return Texts(np.array(ids, np.uint16), np.array(offsets))


def random_store(seed: int) -> Texts:
  random = np.random.default_rng(seed)
  lengths = random.choice([0, 1, 2, 3, 8, 9, 30, 100], random.integers(1, 9))
  return store_of(*lengths)


def text_of(store: Texts) -> list[int]:
  return store.tokens[store.tokens != MARK].tolist()


def counted(pieces: list[Rows]) -> list[int]:
  """The targets that count, sorted."""
  return sorted(
    target
    for piece in pieces
    for target in piece.targets[piece.weight > 0].tolist()
  )


@pytest.fixture(params=[by_document, by_lane])
def read(request, monkeypatch):
  monkeypatch.setattr(rows_module, 'SEGMENTS', 3)  # rows in several pieces
  return request.param


@pytest.mark.parametrize('seed', range(12))
def test_every_token_of_text_counts_exactly_once(read, seed):
  store = random_store(seed)
  for rows, segment in ((1, 1), (2, 4), (3, 7), (5, 16), (16, 2)):
    pieces = list(read(store, rows, segment))
    assert counted(pieces) == text_of(store)
    for piece in pieces:
      assert 1 <= piece.tokens.shape[0] <= rows
      assert piece.tokens.shape[1] % segment == 0


@pytest.mark.parametrize('seed', range(12))
def test_what_counts_follows_its_input_at_its_distance_in_its_document(
  read, seed
):
  store = random_store(seed)
  for piece in read(store, 3, 4):
    for b, t in np.argwhere(piece.weight > 0):
      at = store.tokens.tolist().index(piece.targets[b, t])
      document = np.searchsorted(store.offsets, at, 'right') - 1
      assert piece.tokens[b, t] == store.tokens[at - 1]
      assert piece.distance[b, t] == at - 1 - store.offsets[document]
      assert piece.document[b, t] != EMPTY
      if read is by_document:
        assert piece.source[b, t] == document


def test_pieces_of_a_row_follow_each_other_without_a_gap(read):
  store = store_of(40, 38)
  pieces = list(read(store, 2, 4))
  assert [piece.opens for piece in pieces] == [True, *[False] * 3]
  assert all(piece.tokens.shape[1] == 12 for piece in pieces[:-1])
  tokens = np.concatenate([piece.tokens for piece in pieces], axis=1)
  assert tokens[0, :40].tolist() == [MARK, *range(1, 40)]


def test_whole_documents_fill_rows_of_about_one_length():
  (piece,) = by_document(store_of(9, 2, 5, 0, 8, 1), 2, 4)
  assert piece.tokens[0, :13].tolist() == [0, *range(1, 10), 0, 10, 11]
  assert piece.source[0, :14].tolist() == [0] * 10 + [1] * 3 + [5]
  assert piece.document[0, :14].tolist() == [0] * 10 + [1] * 3 + [2]
  assert piece.source[1, :14].tolist() == [4] * 9 + [2] * 5
  assert piece.weight.sum(axis=1).tolist() == [12, 13]


def test_no_row_waits_for_a_document_that_outweighs_the_rest():
  (piece,) = by_document(store_of(20, 3, 4, 5), 8, 4)
  assert piece.tokens.shape == (2, 20)


def test_every_document_is_given_the_memory_of_another():
  for documents in range(2, 9):
    for rows in range(2, 6):
      store = store_of(*range(3, 3 + documents))
      for piece in by_document(store, rows, 4):
        lenders = piece.source[piece.other]
        assert (lenders != piece.source).all()


def test_a_row_that_ended_is_read_again_and_lends_its_memory():
  (piece,) = by_document(store_of(7, 3), 2, 4)
  assert piece.other.tolist() == [1, 0]
  assert piece.tokens[1].tolist() == [0, 8, 9, 0, 8, 9, 0, 8]
  assert piece.weight[1].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
  assert piece.document[1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_documents_count_up_where_a_row_is_read_again():
  for piece in by_document(store_of(9, 8, 2, 2, 1), 2, 4):
    steps = np.diff(piece.document, axis=1)
    assert ((steps == 0) | (steps == 1)).all()
    begins = np.diff(piece.source, axis=1) != 0
    assert (steps[begins] == 1).all()


def test_one_document_has_no_other():
  (piece,) = by_document(store_of(3), 3, 4)
  assert piece.other is None
  assert piece.tokens.shape[0] == 1
  assert piece.weight.sum() == 3


def test_lanes_share_the_stream_and_count_documents_up():
  (piece,) = by_lane(store_of(3, 4, 1), 2, 4)
  assert piece.tokens[:, :5].tolist() == [[0, 1, 2, 3, 0], [4, 5, 6, 7, 0]]
  assert piece.targets[:, :5].tolist() == [[1, 2, 3, 0, 4], [5, 6, 7, 0, 8]]
  assert piece.weight.tolist() == [
    [1, 1, 1, 0, 1, 0, 0, 0],
    [1, 1, 1, 0, 1, 0, 0, 0],
  ]
  assert piece.document.tolist() == [
    [0, 0, 0, 0, 1, -1, -1, -1],
    [0, 0, 0, 0, 1, -1, -1, -1],
  ]
  assert piece.distance[1, :5].tolist() == [1, 2, 3, 4, 0]


def test_a_text_without_tokens_has_no_rows_that_count(read):
  assert counted(list(read(store_of(0), 2, 4))) == []
  assert counted(list(read(store_of(0, 0, 0), 2, 4))) == []


def test_a_byte_equal_to_the_start_mark_is_text(read):
  store = Texts(np.array([MARK, 5, MARK, 7]), np.array([0, 4]))
  assert counted(list(read(store, 2, 4))) == [MARK, 5, 7]


def test_a_limit_takes_exactly_that_much_from_all_over_the_store(read):
  store = store_of(*[10] * 100)
  got = counted(list(read(store, 4, 4, 205)))
  assert len(got) == 205
  documents = np.unique((np.array(got) - 1) // 10)
  assert len(documents) == 21
  assert np.diff(documents).max() <= 10
  assert documents[0] < 10 and documents[-1] >= 90


def test_a_limit_takes_whole_documents_but_for_the_last(read):
  store = store_of(*[10] * 100)
  got = np.array(counted(list(read(store, 4, 4, 205))))
  sizes = np.bincount((got - 1) // 10)
  assert sorted(sizes[sizes > 0].tolist()) == [5, *[10] * 20]
  less = set(counted(list(read(store, 4, 4, 100))))
  assert less < set(got.tolist())


def test_a_limit_cuts_a_single_document_and_a_high_one_changes_nothing(read):
  assert counted(list(read(store_of(50), 2, 4, 7))) == list(range(1, 8))
  store = store_of(5, 9, 2)
  assert counted(list(read(store, 2, 4, 1000))) == text_of(store)


def test_rows_are_read_as_they_are_asked_for():
  class Watched(np.ndarray):
    reads = 0

    def __getitem__(self, at):
      Watched.reads += 1
      return np.asarray(super().__getitem__(at))

  store = store_of(*[10] * 100)
  store.tokens = store.tokens.view(Watched)
  next(by_document(store, 4, 4))
  next(by_lane(store, 4, 4))
  assert Watched.reads <= 3

"""The task of recall, and the benchmarks of memories, in small."""

import dataclasses

import numpy as np
import pytest
import tiny

from benchmarks import learning, memory
from benchmarks.memories import Size, memories, model_with
from benchmarks.neighbours import Neighbours
from benchmarks.recall import (
  ASK,
  BLANK,
  CHANCE,
  FIRST,
  PAIRS,
  SAY,
  SECOND,
  SEGMENT,
  VOCAB,
  Recall,
)
from lctx.memory import Together, XLCache


def keys_of(tokens):
  return {tuple(key) for key in tokens.reshape(-1, 4)[:, :2].tolist()}


@pytest.mark.parametrize('gap', [1, 4])
def test_every_answer_was_said_as_many_segments_before(gap):
  batch = Recall(gap).batch(rows=5, seed=3)
  parts = batch.tokens.reshape(5, gap + 1, PAIRS, 4)
  for row in range(5):
    said = {tuple(p[:2]): p[3] for p in parts[row, 0].tolist()}
    assert len(said) == PAIRS and (parts[row, :-1, :, 2] == SAY).all()
    for number, pair in enumerate(parts[row, -1].tolist()):
      assert pair[2:] == [ASK, BLANK]
      asked = gap * SEGMENT + 4 * number + 2
      assert batch.weight[row, asked] == 1
      assert batch.targets[row, asked] == said[tuple(pair[:2])]
    between = keys_of(parts[row, 1:-1])
    assert not between & set(said)
  assert batch.weight.sum() == 5 * PAIRS
  assert (parts[..., 0] >= FIRST).all() and (parts[..., 1] >= SECOND).all()
  assert parts.max() < VOCAB


def test_a_gap_of_none_says_and_asks_in_one_segment():
  batch = Recall(0).batch(rows=5, seed=3)
  assert batch.tokens.shape == (5, SEGMENT)
  said, asked = np.split(batch.tokens.reshape(5, PAIRS, 4), 2, axis=1)
  assert (said[..., 2] == SAY).all() and (asked[..., 2] == ASK).all()
  for row in range(5):
    values = {tuple(p[:2]): p[3] for p in said[row].tolist()}
    answers = batch.targets[row][batch.weight[row] > 0].tolist()
    assert answers == [values[tuple(p[:2])] for p in asked[row].tolist()]


def test_no_key_of_a_test_is_in_training():
  seen, asked = (
    keys_of(Recall(8, held_out=held).batch(500, seed=0).tokens)
    for held in (False, True)
  )
  assert len(seen) == 108 and len(asked) == 36 and not seen & asked


def test_a_model_that_learned_nothing_is_at_chance():
  learner = learning.Learner(learning.model_of(XLCache(SEGMENT)), seed=0)
  assert learner.accuracy(1) < 3 * CHANCE
  assert learner.accuracy(1, off=True) < 3 * CHANCE


def test_a_gap_ends_when_it_is_learned_as_well_as_it_will_be():
  assert not learning.ended(0.92, steps=1900, since=450)
  assert learning.ended(0.92, steps=600, since=500)
  assert not learning.ended(0.3, steps=1900, since=450)
  assert not learning.ended(0.2, steps=450, since=400)
  assert learning.ended(0.2, steps=500, since=0)


def test_a_model_is_kept_as_it_was_at_its_best(monkeypatch):
  monkeypatch.setattr(learning, 'EVERY', 1)
  monkeypatch.setattr(learning, 'STEPS', 3)
  monkeypatch.setattr(learning, 'ROWS', 2)
  size = dataclasses.replace(learning.SIZE, depth=1, width=32)
  monkeypatch.setattr(learning, 'SIZE', size)
  learner = learning.Learner(learning.model_of(XLCache(SEGMENT)), seed=0)
  seen, told = [], iter([0.3, 0.5, 0.4])

  def accuracy(gap):
    seen.append(learner.params)
    return next(told)

  monkeypatch.setattr(learner, 'accuracy', accuracy)
  found = learner.learn(1, enough=0.95, until=np.inf)
  assert found == [(1, 0.3), (2, 0.5), (3, 0.4)]
  assert learner.params is seen[1] and seen[1] is not seen[2]


def test_a_table_has_what_was_learned_and_how_far_it_holds(monkeypatch):
  monkeypatch.setattr(learning, 'LEARNED', 0.0)
  monkeypatch.setattr(learning, 'LAST', 0.0)
  monkeypatch.setattr(learning, 'HELD', 0.0)
  monkeypatch.setattr(learning, 'EVERY', 1)
  monkeypatch.setattr(learning, 'GAPS', (1, 2))
  monkeypatch.setattr(learning, 'BEYOND', (1, 2, 4))
  size = dataclasses.replace(learning.SIZE, depth=1, width=32)
  monkeypatch.setattr(learning, 'SIZE', size)
  monkeypatch.setattr(learning, 'ROWS', 2)
  found = learning.learned('xl', XLCache(SEGMENT), 0, minutes=1)
  assert found['trained'] == 2 and found['steps'] == 2
  cells = learning.row(found)
  assert len(cells) == len(learning.COLUMNS) - 4  # of seven gaps, three
  assert [x['gap'] for x in found['stages']] == [1, 2]


def test_a_gap_is_held_where_none_before_it_is_lost():
  def held(trained, *accuracies):
    by_gap = dict(zip(map(str, learning.BEYOND), accuracies))
    return learning.held({'trained': trained, 'accuracy': by_gap})

  assert held(2, 0.8, 0.95, 0.9, 0.89, 0.95, 0, 0) == 4
  assert held(0, 0.5, 1, 1, 1, 1, 1, 1) == 0


@pytest.mark.parametrize('size', [learning.SIZE, memory.SMALL, memory.LARGE])
def test_every_memory_of_the_benchmarks_makes_a_model(size):
  for name, one in memories(size).items():
    model = model_with(one, size, VOCAB)
    assert model.remembers == (name != 'none')
    assert model.compute.dtype == size.dtype
    one.check_segment(size.segment, 'data.segment')


def test_what_memories_cost_is_measured_beside_the_first(monkeypatch):
  monkeypatch.setattr(memory, 'BLOCK', 64)
  size = Size(1, 32, 32, 16, slots=32, searched=32, tokens=128)
  found = memory.measured(['xl', 'infini'], size, rounds=1, tokens=128)
  assert all(0 < x < 60 for y in found for x in y['stream_seconds'])
  assert found[1]['carry_bytes'] < found[0]['carry_bytes']
  lines = memory.table(found).splitlines()
  assert len(lines) == 4 and lines[2].split()[2] == '1.00'
  bare = [{**x, 'stream_seconds': (None, None)} for x in found]
  assert memory.table(bare).splitlines()[3].rstrip().endswith('-')


def test_neighbours_are_alike_however_a_text_is_cut(close):
  memory = Together(XLCache(12), Neighbours(taps=3))
  model = dataclasses.replace(tiny.transformer_xl(), memory=memory)
  params, ids = tiny.large_params(model), tiny.some_ids(2, 12)
  document = np.zeros((2, 12), np.int32)
  document[1, 5:] = 1  # begins inside every segment but one of these
  want, _ = tiny.loop(model, params, ids, [12], document)
  for lengths in ([5, 7], [1, 1, 5, 5]):
    hidden, _ = tiny.loop(model, params, ids, lengths, document)
    close(hidden, want)
  alone, _ = tiny.loop(model, params, ids[1:, 5:], [7])
  close(want[1:, 5:], alone)
  without = dataclasses.replace(model, memory=XLCache(12))
  other, _ = tiny.loop(without, params, ids, [12], document)
  assert abs(other - want).max() > 0.1

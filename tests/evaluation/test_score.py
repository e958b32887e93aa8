"""Scoring: any segments are one pass; own, swapped and empty memories."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.evaluation.rows import Rows
from lctx.evaluation.score import Evaluation, Scorer
from lctx.memory.base import Memory
from lctx.positions import DynamicNtk, Rope
from lctx.training.interrupt import Interrupted
from lctx.types import EMPTY

LENGTH = 24
MODEL = tiny.transformer_xl(depth=2, memory_length=6)
PARAMS = tiny.large_params(MODEL)


def piece(tokens, document=None, other=None, opens=True) -> Rows:
  """Rows that predict each next token of `tokens` [B, n + 1]."""
  tokens = np.asarray(tokens, np.int32)
  inputs = tokens[:, :-1]
  zeros = np.zeros_like(inputs)
  return Rows(
    tokens=inputs,
    targets=tokens[:, 1:],
    document=zeros if document is None else document,
    weight=np.ones(inputs.shape, np.float32),
    distance=zeros,
    source=zeros,
    other=other,
    opens=opens,
  )


def ids(rows=2, length=LENGTH, seed=0):
  return np.asarray(tiny.some_ids(rows, length + 1, seed=seed))


def score(model, segment, pieces, conditions=('own',)):
  found = list(Scorer(model, PARAMS, segment)(pieces, conditions))
  return {
    name: np.concatenate([nats[name] for _, nats in found], axis=1)
    for name in conditions
    if name in found[0][1]
  }


@tiny.quick_jit
def nll(hidden, targets):
  return MODEL.apply({'params': PARAMS}, hidden, targets, method='nll')


def looped(tokens, lengths, document=None):
  """Nats by a loop in Python over segments of these lengths."""
  inputs, targets = jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:])
  hidden, _ = tiny.loop(MODEL, PARAMS, inputs, lengths, document)
  return np.asarray(nll(hidden, targets))


def with_memory(length):
  return Evaluation(memory=length).model(MODEL)


@pytest.mark.parametrize('segment', [1, 5, 24])
def test_with_a_memory_of_the_whole_text_any_segments_are_one_pass(
  close, segment
):
  """Ragged tails and padding included."""
  tokens = ids()
  got = score(with_memory(LENGTH), segment, [piece(tokens)])['own']
  close(got, looped(tokens, [LENGTH]))


def test_own_is_a_plain_loop_that_carries_memory(close):
  tokens = ids()
  document = np.zeros((2, LENGTH), np.int32)
  document[1, 13:] = 1  # a border inside a segment
  got = score(MODEL, 4, [piece(tokens, document)])['own']
  close(got, looped(tokens, [4] * 6, document))


def test_none_is_each_segment_alone(close):
  tokens = ids()
  got = score(MODEL, 6, [piece(tokens)], ('own', 'none'))['none']
  alone = [looped(tokens[:, i : i + 7], [6]) for i in range(0, LENGTH, 6)]
  close(got, np.concatenate(alone, axis=1))


SWAPPED = np.array([1, 0], np.int32)
ALL = ('own', 'swap', 'none')


def test_the_memory_of_a_copy_is_as_good_as_ones_own(close):
  tokens = np.repeat(ids(1), 2, axis=0)
  nats = score(MODEL, 6, [piece(tokens, other=SWAPPED)], ALL)
  close(nats['swap'], nats['own'])
  assert np.abs(nats['swap'] - nats['none'])[:, 6:].max() > 1e-2


def test_swap_reads_on_from_what_the_other_row_remembers(close):
  """Every segment: the other's text up to there, then one's own segment."""
  tokens = ids()
  nats = score(with_memory(LENGTH), 6, [piece(tokens, other=SWAPPED)], ALL)
  other = tokens[SWAPPED]
  want = []
  for start in range(0, LENGTH, 6):
    mixed = np.concatenate(
      [other[:, :start], tokens[:, start : start + 7]], axis=1
    )
    want.append(looped(mixed, [start + 6])[:, start:])
  close(nats['swap'], np.concatenate(want, axis=1))
  assert np.abs(nats['swap'] - nats['own'])[:, 6:].max() > 1e-2


def test_before_the_first_border_all_conditions_agree(close):
  nats = score(MODEL, 6, [piece(ids(), other=SWAPPED)], ALL)
  for name in ('swap', 'none'):
    close(nats[name][:, :6], nats['own'][:, :6])


def test_where_there_is_no_other_row_swap_is_not_measured():
  assert set(score(MODEL, 6, [piece(ids())], ALL)) == {'own', 'none'}


def test_a_row_goes_on_from_piece_to_piece(close):
  tokens = ids()
  whole = score(MODEL, 4, [piece(tokens)])['own']
  parts = [piece(tokens[:, :17]), piece(tokens[:, 16:], opens=False)]
  close(score(MODEL, 4, parts)['own'], whole)
  parts = [piece(tokens[:, :17]), piece(tokens[:, 16:])]
  assert np.abs(score(MODEL, 4, parts)['own'] - whole)[:, 16:].max() > 1e-2


def test_padding_is_neither_read_nor_remembered(close):
  tokens = ids()
  document = np.zeros((2, LENGTH), np.int32)
  document[:, 10:] = EMPTY
  changed = tokens.copy()
  changed[:, 10:] = 3
  one, two = (
    score(MODEL, 4, [piece(t, document)])['own'] for t in (tokens, changed)
  )
  close(one[:, :9], two[:, :9])
  short = tokens[:, :11]
  close(one[:, :10], score(MODEL, 4, [piece(short)])['own'])


def test_memory_and_clamp_of_an_evaluation_change_the_model():
  tokens = ids()
  found = [
    score(settings.model(MODEL), 4, [piece(tokens)])['own']
    for settings in (
      Evaluation(),
      Evaluation(memory=2),
      Evaluation(memory=12),
      Evaluation(clamp=3),
      Evaluation(same_length=True),
    )
  ]
  for i, one in enumerate(found):
    for other in found[:i]:
      assert np.abs(one - other).max() > 1e-3
  assert Evaluation().model(MODEL) == MODEL


def test_a_declared_length_reaches_positions_that_stretch_by_it():
  rope = Rope(stretch=DynamicNtk(2.0, 4, 8))
  model = dataclasses.replace(MODEL, position=rope)
  longer = Evaluation(declared=64).model(model)
  assert longer.position == Rope(stretch=DynamicNtk(2.0, 4, 64))
  with pytest.raises(ValueError, match=r'eval\.declared = 64 has no effect'):
    Evaluation(declared=64).model(MODEL)


def test_an_evaluation_refuses_what_a_model_cannot_do():
  forgetful = dataclasses.replace(MODEL, memory=Memory())
  with pytest.raises(ValueError, match=r'eval\.memory = 3 cannot be'):
    Evaluation(memory=3).model(forgetful)
  with pytest.raises(ValueError, match=r'eval\.same_length = True cannot be'):
    Evaluation(same_length=True).model(forgetful)


@pytest.mark.parametrize(
  'trained, fields, said',
  [
    ({'same_length': True}, {'memory': 0}, 'eval.memory = 0 does not fit'),
    ({'length': 0}, {'same_length': True}, 'eval.same_length = True does not'),
  ],
)
def test_what_does_not_fit_the_model_is_told_by_the_field_of_eval(
  trained, fields, said
):
  memory = dataclasses.replace(MODEL.memory, **trained)
  model = dataclasses.replace(MODEL, memory=memory)
  with pytest.raises(ValueError, match=said):
    Evaluation(**fields).model(model)


@pytest.mark.parametrize(
  'fields',
  [
    {'segment': 0},
    {'rows': 0},
    {'declared': 0},
    {'tokens': 0},
    {'split': 'tset'},
  ],
)
def test_an_evaluation_checks_itself(fields):
  (name,) = fields
  with pytest.raises(ValueError, match=f'eval.{name}'):
    Evaluation(**fields)


def test_a_scorer_can_be_stopped_between_segments():
  def stop():
    raise Interrupted

  with pytest.raises(Interrupted):
    list(Scorer(MODEL, PARAMS, 4)([piece(ids())], poll=stop))

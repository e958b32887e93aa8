"""Decoding is reading: the same function, a token at a time, for ever."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lctx import presets
from lctx.errors import UserError
from lctx.generation import decode, reading
from lctx.generation.decode import Request, generate, score
from lctx.generation.sampling import Sampling
from lctx.positions.xl import LearnedRelative
from lctx.types import EMPTY, segment_coords

LOGITS = 1e-4  # float32, past many closings: the promise to the user
ALONE = 1e-5  # float32, a row beside others against the same row alone
VOCAB = 23
GREEDY = Sampling(temperature=0)
MODELS = {
  'staircase': (4, {'memory_length': 8}),
  'short memory': (5, {'memory_length': 3, 'per_layer_biases': True}),
  'same length': (
    4,
    {'memory_length': 7, 'same_length': True, 'pre_norm': True, 'clamp': 5},
  ),
  'learned, adaptive': (
    6,
    {
      'memory_length': 6,
      'position': LearnedRelative(9),
      'cutoffs': (7, 15),
      'div_val': 2,
    },
  ),
  'no memory': (4, {'memory_length': 0}),
}


@functools.cache
def large(name='staircase'):
  """A model whose every parameter matters, and its segment."""
  segment, fields = MODELS[name]
  model = presets.transformer_xl(2, 16, 2, vocab=VOCAB, **fields)
  random = np.random.RandomState(1)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(random.randn(*leaf.shape) * 0.5, jnp.float32),
    jax.eval_shape(model.init_params, jax.random.key(0)),
  )
  return model, params, segment


def some_ids(length, seed=0):
  return np.random.RandomState(seed).randint(0, VOCAB, length)


@functools.partial(jax.jit, static_argnums=0)
def read_segment(model, params, tokens_BT, carry):
  at = segment_coords(jnp.zeros_like(tokens_BT))
  hidden, carry, _ = model.apply({'params': params}, tokens_BT, at, carry)
  return model.apply({'params': params}, hidden, method='log_probs'), carry


def whole_segments(model, params, ids, segment):
  """Log-probabilities [n, V] as training computes them."""
  carry, out = model.initial(1), []
  for i in range(0, len(ids), segment):
    tokens = np.zeros((1, segment), np.int32)
    tokens[0, : len(ids) - i] = ids[i : i + segment]
    logp, carry = read_segment(model, params, tokens, carry)
    out.append(logp[0])
  return np.concatenate(out)[: len(ids)]


append = jax.jit(decode.append)


@jax.jit
def log_probs(reader, state):
  return reader.model.apply(
    {'params': reader.params}, state.hidden_BD[:, None], method='log_probs'
  )[:, 0]


@pytest.mark.parametrize('name', MODELS)
def test_one_token_at_a_time_equals_whole_segments(name):
  model, params, segment = large(name)
  ids = some_ids(60)
  wanted = whole_segments(model, params, ids, segment)
  reader, state = reading.begin(model, params, 1, segment)
  got = []
  for token in ids:
    state = append(reader, state, jnp.array([token]), EMPTY)
    got.append(log_probs(reader, state)[0])
  assert np.abs(np.array(got) - wanted).max() < LOGITS


def test_memory_matters_to_this_model_so_parity_can_fail():
  model, params, segment = large()
  ids = some_ids(60)
  reader, state = reading.read(model, params, [ids], segment)
  _, late = reading.read(model, params, [ids[-segment:]], segment)
  gap = np.abs(log_probs(reader, state) - log_probs(reader, late)).max()
  assert gap > 1000 * LOGITS


def test_prompts_may_be_read_in_pieces_that_do_not_divide_a_segment(close):
  model, params, segment = large()
  rows = [some_ids(n, seed=n) for n in (22, 3, 8)]
  reader, state = reading.begin(model, params, len(rows), segment)
  for piece in reading.pieces(rows, segment, width=3):
    _, state = reading.read_piece(reader, state, piece)
  _, wanted = reading.read(model, params, rows, segment)
  close(log_probs(reader, state), log_probs(reader, wanted), ALONE)
  assert (state.seen_BV == wanted.seen_BV).all()
  assert (state.carry.open.filled == jnp.array([2, 3, 0])).all()


@pytest.mark.parametrize('name', ['staircase', 'same length'])
def test_each_of_unequal_prompts_goes_on_as_if_alone(name, close):
  model, params, segment = large(name)
  prompts = [some_ids(n, seed=n) for n in (1, 33, 4)]
  reader, state = reading.read(model, params, prompts, segment)
  together = np.array(
    list(generate(model, params, Request(prompts, 30, GREEDY), segment))
  ).T
  for row, prompt in enumerate(prompts):
    _, solo = reading.read(model, params, [prompt], segment)
    wanted = log_probs(reader, solo)[0]
    close(log_probs(reader, state)[row], wanted, ALONE)
    close(whole_segments(model, params, prompt, segment)[-1], wanted, ALONE)
    alone = generate(model, params, Request([prompt], 30, GREEDY), segment)
    assert together[row].tolist() == [int(token) for (token,) in alone]


def test_greedy_text_is_what_whole_segments_would_choose():
  model, params, segment = large()
  prompt = some_ids(10)
  new = generate(model, params, Request([prompt], 50, GREEDY), segment)
  ids = np.concatenate([prompt, *new])
  chosen = whole_segments(model, params, ids, segment).argmax(axis=1)
  assert chosen[9:-1].tolist() == ids[10:].tolist()


def test_a_long_text_needs_one_program_and_no_more_memory_than_a_short_one():
  model, params, segment = large()
  request = Request([some_ids(7), some_ids(2)], None, Sampling(2.0))
  tokens = generate(model, params, request, segment)

  def bytes_after(turns):
    for _ in range(turns):
      next(tokens)
    return sum(array.nbytes for array in jax.live_arrays())

  few = bytes_after(20)
  programs = decode._write._cache_size()
  assert bytes_after(480) == few
  assert decode._write._cache_size() == programs


def test_a_seed_says_what_comes_in_each_row_and_another_something_else():
  model, params, segment = large()

  def text(prompts, seed):
    request = Request(prompts, 24, Sampling(2.0), seed)
    return np.array(list(generate(model, params, request, segment))).T

  prompts = [some_ids(5), some_ids(9)]
  first = text(prompts, seed=3)
  assert (text(prompts, seed=3) == first).all()
  assert (text(prompts, seed=4) != first).any(axis=1).all()
  assert (text(prompts[:1], seed=3) == first[:1]).all()
  twice = text(prompts[:1] * 2, seed=3)
  assert (twice[0] != twice[1]).any()


def test_first_tokens_come_as_often_as_the_model_says():
  model, params, segment = large()
  rows = 2000
  request = Request([some_ids(3)] * rows, 1, Sampling(temperature=3.0))
  (tokens,) = generate(model, params, request, segment)
  logp = whole_segments(model, params, some_ids(3), segment)[-1]
  wanted = np.asarray(jax.nn.softmax(logp / 3.0))
  often = np.bincount(tokens, minlength=VOCAB) / rows
  # Total variation is below sum(sqrt(p / rows)) / 2 < 0.054 on average.
  assert np.abs(often - wanted).sum() / 2 < 0.06


def test_a_penalty_knows_prompt_and_new_tokens():
  model, params, segment = large()
  prompts = [np.array([3, 4, 5, 3]), np.array([7])]
  request = Request(
    prompts, VOCAB - 3, Sampling(temperature=0, repetition_penalty=1e6)
  )
  new = np.array(list(generate(model, params, request, segment))).T
  first, second = (set(p) | set(row) for p, row in zip(prompts, new))
  assert len(first) == VOCAB  # 3 in the prompt, then 20 others
  assert len(second) == VOCAB - 2


def test_a_row_ends_at_its_stop_and_the_others_do_not_notice():
  model, params, segment = large()
  prompts = [some_ids(n, seed=n) for n in (5, 11)]
  sampling = Sampling(2.0)
  free = np.array(
    list(generate(model, params, Request(prompts, 200, sampling), segment))
  ).T
  stop = int(free[0, 3])
  request = Request(prompts, None, sampling, stop=stop)
  ended = np.array(list(generate(model, params, request, segment))).T
  lengths = [row.tolist().index(stop) + 1 for row in free]
  assert ended.shape[1] == max(lengths)
  for row, length in enumerate(lengths):
    assert (ended[row, :length] == free[row, :length]).all()
    assert (ended[row, length:] == EMPTY).all()


@pytest.mark.parametrize(
  'name, length', [('staircase', 2), *((name, 13) for name in MODELS)]
)
def test_a_score_is_the_loss_of_whole_segments(name, length, close):
  model, params, segment = large(name)
  ids = some_ids(length)
  logp = whole_segments(model, params, ids[:-1], segment)
  wanted = -logp[np.arange(length - 1), ids[1:]]
  close(score(model, params, ids, segment), wanted, ALONE)


def test_broken_parameters_are_reported_not_sampled():
  model, params, segment = large()
  broken = jax.tree.map(lambda leaf: leaf.at[...].set(jnp.nan), params)
  tokens = generate(model, broken, Request([some_ids(3)], 5, GREEDY), segment)
  with pytest.raises(UserError, match='after 0 new tokens are not finite'):
    next(tokens)


@pytest.mark.parametrize(
  'wrong, message',
  [
    (lambda: Request([]), 'at least one prompt'),
    (lambda: Request([some_ids(3), some_ids(0)]), r'lengths \[3, 0\]'),
    (lambda: Request([some_ids(3)], 0), 'max_new_tokens=0'),
    (lambda: Request([some_ids(3)], seed=-1), 'seed=-1'),
    (lambda: generate(*large()[:2], Request([[VOCAB]]), 4), f'to {VOCAB}, but'),
    (lambda: generate(*large()[:2], Request([[1.5]]), 4), 'float64 array'),
    (lambda: score(*large()[:2], [[1, 2], [3, 4]], 4), 'shape'),
    (lambda: score(*large()[:2], [1], 4), 'There are 1 tokens'),
  ],
)
def test_what_cannot_be_gone_on_from_is_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    wrong()

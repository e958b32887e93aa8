"""Texts longer than a model are read as the config says, or refused."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import lctx
from lctx import presets
from lctx.data.byte_codec import ByteCodec
from lctx.data.long_texts import Carry, Refuse, Stride, Truncate
from lctx.generation import decode, pairs, windows
from lctx.layers.norm import RMSNorm
from lctx.memory import Memory, Tokens
from lctx.positions import Learned, NoPosition, T5Bias

LIMIT = 20
TEXT = 'The whale swam under the ship, and the captain saw it go down.'
GREEDY = lctx.Sampling(temperature=0, repetition_penalty=1.7)


def loaded_of(policy, **fields):
  """A decoder of 20 positions that every segment of 8 is read on in."""
  fields = {'position': Learned(LIMIT), **fields}
  model = tiny.transformer_xl(vocab=256, memory_length=LIMIT, **fields)
  lanes = lctx.Lanes(lctx.Text('x'), segment=8)
  config = lctx.Config(model, lanes, lctx.Adam())
  params = tiny.large_params(model)
  loaded = lctx.Loaded(model, params, ByteCodec(range(256)), config, 1)
  return loaded.with_long_texts(policy)


def test_a_long_prompt_is_refused_or_shortened_by_as_much_as_it_must_be():
  with pytest.raises(ValueError, match='one has 62 tokens where 13 have'):
    loaded_of(Refuse()).generate(['The', TEXT], 6)
  for cut, left in (
    ('tail', TEXT[:13]),
    ('head', TEXT[-13:]),
    ('middle', TEXT[:7] + TEXT[-6:]),
  ):
    got = loaded_of(Truncate(cut=cut)).generate(['The', TEXT], 6)
    assert got == loaded_of(Refuse()).generate(['The', left], 6)


def test_a_text_that_is_written_in_windows_goes_on_from_the_last_tokens():
  loaded = loaded_of(Stride(overlap=0.5))
  got = list(loaded.stream(['The ship'], 30, sampling=GREEDY))
  plain, ids = loaded_of(Refuse()), loaded.encode('The ship')
  while len(ids) < 9 + 30:  # 20 tokens at a time, 10 of them known
    row = ids if len(ids) < LIMIT else np.append(ids[:1], ids[-9:])
    more = min(LIMIT - len(row), 9 + 30 - len(ids))
    request = decode.Request([row], more, GREEDY)
    written = decode.generate(plain.model, plain.params, request, 8)
    ids = np.concatenate([ids, *written])
  assert np.concatenate(got).tolist() == ids[9:].tolist()


def test_windows_of_several_prompts_keep_their_own_texts():
  loaded = loaded_of(Stride(overlap=0.25))
  both = written(loaded, ['The', TEXT], 25)
  assert (both[0] != both[1]).any()
  for row, prompt in zip(both, ['The', TEXT]):
    assert (row == written(loaded, [prompt], 25)[0]).all()
  near = written(loaded, ['The ship sa', TEXT[:17]], 8)
  assert (near[0] == written(loaded, ['The ship sa'], 8)[0]).all()
  drawn = {'sampling': None, 'seed': 3}
  (one,), (same,) = (written(loaded, ['The'], 40, **drawn) for _ in range(2))
  assert (one == same).all()
  windows = one[16:31], one[31:46][:9]  # 4 of 20 known, 15 new
  assert (windows[0][:9] != windows[1]).any()  # and drawn anew


def written(loaded, prompts, count, sampling=GREEDY, seed=0):
  tokens = loaded.stream(prompts, count, sampling=sampling, seed=seed)
  return np.stack(list(tokens), axis=1)


def test_a_text_is_scored_in_windows_that_score_each_token_once(close):
  loaded, plain = loaded_of(Stride(overlap=0.5)), loaded_of(Refuse())
  got = loaded.score(TEXT)
  assert got.shape == (len(TEXT),)
  close(got[:20], plain.score(TEXT[:20]))
  close(got[20:30], plain.score(TEXT[10:30])[10:])
  close(got[-2:], plain.score(TEXT[-20:])[-2:])


def test_what_is_left_out_is_not_scored(close):
  loaded, plain = loaded_of(Truncate(cut='middle')), loaded_of(Refuse())
  close(loaded.score(TEXT), plain.score(TEXT[:10] + TEXT[-10:]))
  with pytest.raises(ValueError, match='one has 62 tokens where 20 have'):
    plain.score(TEXT)


def test_too_many_new_tokens_are_what_is_refused():
  with pytest.raises(ValueError, match='max_new_tokens = 50 leaves no room'):
    loaded_of(Truncate()).generate('The', 50)


def test_a_length_of_its_own_cuts_prompts_without_end_too():
  loaded = loaded_of(Truncate(length=8), position=NoPosition())
  plain = loaded_of(Refuse(), position=NoPosition())
  ends = itertools.islice(loaded.stream([TEXT], None), 5)
  want = itertools.islice(plain.stream([TEXT[:7]], None), 5)
  assert np.concatenate(list(ends)).tolist() == np.concatenate([*want]).tolist()


def test_memory_is_of_what_was_read_and_of_no_windows():
  memory = loaded_of(Truncate()).read(TEXT)
  want = loaded_of(Refuse()).read(TEXT[:19])
  assert (memory.tokens, memory.text_hash) == (20, want.text_hash)
  with pytest.raises(ValueError, match='windows, which stand alone'):
    loaded_of(Stride()).read(TEXT)
  short = loaded_of(Stride())
  memory = short.read(TEXT[:10])
  with pytest.raises(ValueError, match='only the memory is known'):
    short.generate('and', 20, after=memory)
  with pytest.raises(ValueError, match='goes on after another'):
    short.score(TEXT, after=memory)


def test_positions_that_restart_carry_a_text_of_any_length(close):
  """What is decoded is what is read at once, segment by segment."""
  loaded = loaded_of(Carry(), position=Learned(8, restarts=True))
  nats = loaded.score(TEXT)
  assert np.isfinite(nats).all() and nats.shape == (len(TEXT),)
  model, ids = loaded.model, loaded.encode(TEXT)[None]
  tokens = jnp.asarray(np.pad(ids, ((0, 0), (0, 1))))
  hidden, _ = tiny.loop(model, loaded.params, tokens, [8] * 8)
  logp = tiny.log_probs(model, loaded.params, hidden)
  logp = np.asarray(logp)[:, : len(TEXT)]
  want = -np.take_along_axis(logp, np.asarray(ids)[:, 1:, None], 2)
  close(nats, want[0, :, 0])
  with pytest.raises(ValueError, match='restarts'):
    loaded_of(Carry()).score(TEXT)


def test_carrying_on_wants_a_memory(tmp_path):
  loaded = loaded_of(Refuse())
  model = loaded.model.clone(memory=Memory())
  forgets = dataclasses.replace(loaded, model=model)
  with pytest.raises(ValueError, match='long_texts = carry'):
    forgets.with_long_texts(Carry())
  lanes = dataclasses.replace(loaded.config.data, long_texts=Carry())
  config = lctx.Config(model, lanes, lctx.Adam())
  with pytest.raises(lctx.UserError, match='long_texts = carry'):
    lctx.train(config, tmp_path)


BART = presets.bart(2, 16, 2, LIMIT, embed={'vocab': 29})
T5 = presets.t5(
  2,
  16,
  2,
  embed={'vocab': 29},
  encoder={'position': T5Bias(8, 7, both_ways=True)},
)
OBJECTIVE = lctx.objectives.Bart().with_ids(25)


def context(model, texts, policy):
  params = tiny.large_params(model)
  asked = OBJECTIVE, texts, 8, policy
  return windows.context(model, params, *asked)


def test_a_decoder_sees_all_windows_of_a_source_and_each_token_once(close):
  texts = [tiny.some_ids(1, n, 25, seed=n)[0] for n in (40, 7)]
  texts = [np.asarray(text) for text in texts]
  got = context(BART, texts, Stride(overlap=0.5))
  params = tiny.large_params(BART)

  def alone(ids):
    return pairs.context(BART, params, [OBJECTIVE.source(ids)], 8).x[0]

  want = []  # windows of 18; marks stand before and behind each
  for first, places in (
    (0, range(13)),
    (9, range(13, 22)),
    (18, range(22, 29)),
    (22, range(29, 40)),
  ):
    window = alone(texts[0][first : first + 18])
    want.append(window[np.array([0, *(1 + x - first for x in places), 19])])
  held = np.asarray(got.at.document) == 0
  assert held.sum(axis=1).tolist() == [40 + 2 * 4, 9]
  close(got.x[0][held[0]], np.concatenate(want))
  close(got.x[1][held[1]], alone(texts[1]))


@pytest.mark.parametrize('model', [BART, T5], ids=['bart', 't5'])
def test_windows_without_overlap_are_their_own_texts_side_by_side(model, close):
  text = np.asarray(tiny.some_ids(1, 36, 25)[0])
  got = context(model, [text], Stride(length=LIMIT, overlap=0.0))
  halves = context(model, [text[:18], text[18:]], Refuse())
  close(got.x[0], np.concatenate(np.asarray(halves.x)))


def test_a_source_is_refused_shortened_or_carried():
  text = np.asarray(tiny.some_ids(1, 40, 25)[0])
  with pytest.raises(ValueError, match='one has 40 tokens where 18 have'):
    context(BART, [text], Refuse())
  got = context(BART, [text], Truncate(cut='head'))
  want = context(BART, [text[-18:]], Refuse())
  assert (got.x == want.x).all()
  memory = dataclasses.replace(T5.encoder, memory=Tokens(2, RMSNorm()))
  remembers = dataclasses.replace(T5, encoder=memory)
  carried = context(remembers, [text], Carry())
  other = text.copy()
  other[0] = (other[0] + 1) % 25
  changed = context(remembers, [other], Carry())
  alone = context(T5, [text], Refuse())
  far = np.abs(changed.x - carried.x)[0, 32:]  # segments of 8
  assert far.max() > 1e-4 and np.abs(carried.x[:, :42] - alone.x).max() > 1e-2
  with pytest.raises(ValueError, match='reads on from segment to segment'):
    context(remembers, [text], Stride(length=LIMIT))

"""From text to units: bits by hand, every token once, memory against none."""

import dataclasses
import math

import numpy as np
import pytest
import tiny

from lctx.data import ByBytes, Bytes, Text, Words, open_store
from lctx.errors import UserError
from lctx.evaluation.measure import measure, perplexity
from lctx.evaluation.rows import by_stretch
from lctx.evaluation.score import Evaluation, Scorer

DOCUMENTS = ['Caf\u00e9 au lait. ' * 3, 'one two', 'a\n', 'the long end ' * 6]


BYTES = Bytes()


class Sure:
  """A scorer for which every token costs two bits, one without memory more."""

  def __init__(self, segment=5, length=4):
    self.segment = segment
    self.model = tiny.transformer_xl(memory_length=length)

  def __call__(self, pieces, conditions=('own',), poll=lambda: None):
    bits = {'own': 2.0, 'swap': 2.5, 'none': 3.0}
    for rows in pieces:
      poll()
      yield (
        rows,
        {
          name: np.full(rows.tokens.shape, bits[name] * math.log(2), np.float32)
          for name in conditions
        },
      )


def opened(folder, documents, tokenizer=BYTES):
  """A store whose test split is all of `documents`, and its codec.

  All of their words are in the train split too.
  """
  texts = folder / 'texts'
  texts.mkdir()
  train = '\n'.join(documents) + '\n.'
  (texts / '-.txt').write_text(train)
  for number, document in enumerate(documents):
    (texts / f'{number:02}.txt').write_text(document)
  sizes = len(train.encode()) - 1, 1, len(''.join(documents).encode())
  corpus = Text(str(texts), ByBytes(*sizes))
  codec = tokenizer.fit(corpus, folder)
  return open_store(corpus, codec, 'test', folder / 'store'), codec


@pytest.fixture
def some(tmp_path):
  return opened(tmp_path, DOCUMENTS)


def text():
  return ''.join(DOCUMENTS)


def test_units_of_a_text_counted_by_hand(some):
  """Bytes: 2 bits each; a letter of two bytes makes characters dearer."""
  store, codec = some
  found = perplexity(Sure(), store, codec, rows=3, limit=None)
  assert found.num_bytes == found.tokens == len(text().encode())
  assert found.num_chars == len(text())
  assert found.num_words == sum(len(d.split()) for d in DOCUMENTS)
  assert found.bits_per_byte == pytest.approx(2)
  assert found.bits_per_token == pytest.approx(2)
  assert found.bits_per_character == pytest.approx(
    2 * len(text().encode()) / len(text())
  )
  assert found.token_perplexity == pytest.approx(4)
  bits = 2 * found.tokens / found.num_words
  assert found.word_perplexity == pytest.approx(2**bits)


def test_units_of_words(tmp_path):
  store, codec = opened(tmp_path, DOCUMENTS, Words())
  found = perplexity(Sure(), store, codec, rows=2, limit=None)
  ends = text().count('\n')
  assert found.num_words == sum(len(d.split()) for d in DOCUMENTS)
  assert found.tokens >= found.num_words + ends
  assert found.bits_per_byte == pytest.approx(
    2 * found.tokens / len(text().encode())
  )


@pytest.mark.parametrize('rows', [1, 2, 7])
@pytest.mark.parametrize('segment', [1, 5, 64])
def test_every_token_is_predicted_once_however_it_is_read(some, rows, segment):
  store, codec = some
  lanes = perplexity(Sure(segment), store, codec, rows, None)
  settings = Evaluation(rows=rows)
  documents = measure(Sure(segment), store, codec, settings, 'it')
  assert documents.units == lanes
  assert sum(s.tokens for s in documents.positions) == lanes.tokens
  assert sum(s.num_bytes for s in documents.positions) == lanes.num_bytes


def test_a_part_is_counted_as_its_tokens_spell_it(some):
  store, codec = some
  found = perplexity(Sure(), store, codec, rows=1, limit=20)
  assert found.tokens == found.num_bytes == 20
  assert found.bits_per_byte == pytest.approx(2)
  assert (found.num_chars, found.num_words) == (18, 4)  # Café au lait. Café


def test_the_gain_is_what_memory_saves(some):
  store, codec = some
  result = measure(Sure(), store, codec, Evaluation(rows=4), 'it')
  past = result.comparison.past
  for loss, bits in ((past.own, 2), (past.swap, 2.5), (past.none, 3)):
    assert loss.bits_per_byte.value == pytest.approx(bits)
  assert past.gain.value == pytest.approx(1)
  assert past.gain_over_swap.value == pytest.approx(0.5)
  beyond = sum(max(0, len(d.encode()) - 5) for d in DOCUMENTS)
  assert past.tokens == beyond  # tokens 5, 6, ... of each document


def test_without_memory_or_on_request_nothing_is_compared(some):
  store, codec = some
  for scorer, settings in (
    (Sure(length=0), Evaluation(rows=4)),
    (Sure(), Evaluation(rows=4, compare=False)),
  ):
    assert measure(scorer, store, codec, settings, 'it').comparison is None


def test_one_document_is_compared_by_stretches(tmp_path):
  store, codec = opened(tmp_path, ['the long end ' * 20])
  result = measure(Sure(), store, codec, Evaluation(rows=4), 'it')
  assert result.units.tokens == 13 * 20
  assert result.comparison.past.documents == 4
  assert '4 stretches' in result.comparison.note
  pieces = list(by_stretch(store, 4, 5, None))
  assert all(piece.distance.min() == 0 for piece in pieces[:1])


def test_documents_without_text_are_refused(tmp_path):
  store, codec = opened(tmp_path, ['some'])
  empty = dataclasses.replace(
    store, tokens=store.tokens[:1], offsets=np.array([0, 1])
  )
  with pytest.raises(UserError, match='hold no text'):
    measure(Sure(), empty, codec, Evaluation(rows=2), 'it')


def test_a_real_model_gives_the_nats_of_its_scorer(some, close):
  """One document a row, memory long enough: the loss of plain passes."""
  store, codec = some
  model = tiny.transformer_xl(depth=1, memory_length=100, vocab=256)
  params = tiny.large_params(model)
  want = 0.0
  for first, end in zip(store.offsets, store.offsets[1:]):
    tokens = np.asarray(store.tokens[first:end], np.int32)[None]
    nll = one_pass(model, params, tokens[:, :-1], tokens[:, 1:])
    want += float(np.asarray(nll).sum(dtype=np.float64))
  found = measure(
    Scorer(model, params, 7), store, codec, Evaluation(rows=2), 'it'
  )
  got = found.units.bits_per_token * found.units.tokens * math.log(2)
  assert got == pytest.approx(want, rel=1e-5)


def one_pass(model, params, tokens, targets):
  hidden, _ = tiny.loop(model, params, tokens, [tokens.shape[1]])
  return model.apply({'params': params}, hidden, targets, method='nll')

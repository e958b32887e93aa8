"""Heads of BERT and its kin: what is asked, and how files name it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lctx.interop.labels import count_of
from lctx.interop.layers import array, linear, norm
from lctx.interop.options import Options
from lctx.interop.tables import Entry
from lctx.layers.ffn import FeedForward
from lctx.layers.norm import LayerNorm
from lctx.models.tasks import (
  MaskedWords,
  Spans,
  States,
  Task,
  TextLabels,
  TokenLabels,
)
from lctx.models.text import Encoder

LABELS = 'labels'


class Names(NamedTuple):
  """What files of one of these families call their arrays."""

  body: str
  words: dict[str, str]  # the head of a masked language model: ours to theirs
  labels: dict[str, str]  # of a text: theirs to ours
  pooler: str = 'pooler.dense'


class Like(NamedTuple):
  """What of a body heads are like, too."""

  norm: LayerNorm
  ffn: FeedForward
  hidden: int  # its width between


class Head(NamedTuple):
  """What is asked of a published encoder."""

  asks: type[Task]
  task: Callable[[Options, Like], Task]
  entries: Callable[[Encoder, Names], Iterator[Entry]]


def _words(options, like):
  return MaskedWords(like.ffn, like.norm)


def _of_words(model, names):
  words, width = names.words, model.embed.width
  square = width, width
  yield from linear(words['dense'], 'dense', square, bias=True, of=('task',))
  yield from norm(words['norm'], ('task',), width, bias=True)
  yield array(words['bias'], ('vocabulary', 'out_bias_0'), model.embed.vocab)


def tied(model: Encoder, names: Names) -> dict[str, str]:
  """What the head of a masked language model shares with the vocabulary."""
  if not isinstance(model.task, MaskedWords):
    return {}
  decoder = names.words['decoder']
  return {
    f'{decoder}.weight': f'{names.body}embeddings.word_embeddings.weight',
    f'{decoder}.bias': names.words['bias'],
  }


def _states(options, like):
  poolers = {'pooler.dense.weight', 'pooler.weight'}
  return States(pooled=bool(poolers & {*options.arrays}))


def _of_states(model, names):
  found = {names.pooler: 'pooled'} if model.task.pooled else {}
  return of_answers(model, found)


def _texts(options, like):
  return TextLabels(count_of(options))


def _of_texts(model, names):
  return of_answers(model, names.labels)


def _tokens(options, like):
  return TokenLabels(count_of(options))


def _of_tokens(model, names):
  return of_answers(model, {'classifier': LABELS})


def _spans(options, like):
  return Spans(count_of(options))


def _of_spans(model, names):
  return of_answers(model, {'qa_outputs': LABELS})


def of_answers(model: Encoder, found: dict[str, str]) -> Iterator[Entry]:
  """Matrices with biases: names of theirs to `pooled` or `labels`."""
  width = model.embed.width
  for name, leaf in found.items():
    shape = width, width if leaf == 'pooled' else model.task.labels
    yield from linear(name, leaf, shape, bias=True, of=('answers',))


STATES = Head(States, _states, _of_states)
WORDS = Head(MaskedWords, _words, _of_words)
TEXTS = Head(TextLabels, _texts, _of_texts)
TOKENS = Head(TokenLabels, _tokens, _of_tokens)
SPANS = Head(Spans, _spans, _of_spans)
HEADS = {
  'Model': STATES,
  'ForMaskedLM': WORDS,
  'ForSequenceClassification': TEXTS,
  'ForTokenClassification': TOKENS,
  'ForQuestionAnswering': SPANS,
}

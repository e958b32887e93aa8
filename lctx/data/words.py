"""Words between spaces, as WikiText-103 and LM1B are published."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np

from lctx.data.codec import (
  NO_NAME,
  Codec,
  Tokenizer,
  as_text,
  read_ready,
)
from lctx.data.corpora import Corpus
from lctx.data.documents import BLOCK, digest, lines


class WordCodec(Codec):
  """A list of words; a word counts its space, so decoding adds one to each.

  With `both_ends` the last word's space is the line's newline, and the marks
  have no bytes.
  """

  kind = 'words'

  def __init__(self, words, mark: str, both_ends: bool, unknown, lower: bool):
    self._words = words
    self._options = [mark, both_ends, unknown, lower]
    self._ids = {word: id for id, word in enumerate(words)}
    self._mark, self._both_ends = self._ids[mark], both_ends
    self._unknown, self._lower = unknown, lower
    pieces = [f'{word} '.encode() for word in words]
    pieces[self._mark] = b'\n'
    super().__init__(pieces, start=self._mark)
    if both_ends:
      self.num_bytes[self._mark] = 0

  def stream(
    self, blocks: Iterable[bytes], name: str = NO_NAME
  ) -> Iterator[np.ndarray]:
    ids: list[int] = []
    before, inside = 0, True  # the document's mark has opened its first line
    for line in lines(blocks):
      text = as_text(line, before, name)
      if self._both_ends and not inside:
        ids.append(self._mark)
      words = (text.lower() if self._lower else text).split()
      try:
        ids += [self._ids[word] for word in words]
      except KeyError:
        ids += self._with_unknown(words, name, before)
      inside = not line.endswith(b'\n')
      if not inside:
        ids.append(self._mark)
      before += len(line)
      if len(ids) >= BLOCK:
        yield np.array(ids, np.int32)
        ids = []
    yield np.array(ids, np.int32)

  def _with_unknown(self, words, name: str, before: int) -> list[int]:
    if self._unknown not in self._ids:
      word = next(word for word in words if word not in self._ids)
      raise ValueError(
        f'data.tokenizer does not know the word {word!r}, met in {name} in the '
        f'line at byte {before}, and {self._unknown} is not in its vocabulary. '
        f'Set data.tokenizer.min_count=2, which adds it and lets rare words '
        "train it, or put data.tokenizer.unknown to the corpus's own name."
      )
    return [self._ids.get(word, self._ids[self._unknown]) for word in words]

  def state(self) -> dict:
    return {'words': self._words, 'options': self._options}

  @classmethod
  def restore(cls, state: dict) -> Self:
    return cls(state['words'], *state['options'])


@dataclasses.dataclass(frozen=True)
class Words(Tokenizer):
  """One id a word, `mark` first and then by frequency in the train split.

  `mark` stands for the end of a line and opens every document. `both_ends`
  also puts it before each line (the document's own mark is that of its first
  line): LM1B is `Words(mark='<S>', both_ends=True, unknown='<UNK>',
  path='1b_word_vocab.txt')`. `path` is a ready vocabulary, one word a line;
  then nothing is counted. Words met fewer than `min_count` times, or beyond
  the `max_size` most frequent, become `unknown`.
  """

  lower: bool = False
  min_count: int = 0
  max_size: int | None = None
  mark: str = '<eos>'
  both_ends: bool = False
  unknown: str = '<unk>'
  path: str = ''
  codec = WordCodec

  def __post_init__(self):
    if self.max_size is not None and self.max_size < 1:
      raise ValueError(
        f'data.tokenizer.max_size={self.max_size} leaves no words. Use at '
        'least 1, or none to keep them all.'
      )
    if self.path and (self.min_count or self.max_size):
      raise ValueError(
        f'data.tokenizer.path={self.path} is a ready vocabulary, so min_count '
        'and max_size have no effect. Unset them or the path.'
      )

  def _source(self, corpus, folder):
    origin = (
      digest(_read(self.path)) if self.path else corpus.fingerprint(folder)
    )
    return digest(repr(self), origin)

  def _make(self, corpus):
    return self._load() if self.path else self._count(corpus)

  def _load(self) -> WordCodec:
    text = as_text(_read(self.path), 0, self.path)
    words = [line.split()[0] for line in text.split('\n') if line.strip()]
    if self.mark not in words:
      words.insert(0, self.mark)
    return self._codec(list(dict.fromkeys(words)))

  def _count(self, corpus: Corpus) -> WordCodec:
    counts: collections.Counter[str] = collections.Counter()
    for document in corpus.documents('train', utf8=True):
      before = 0
      for line in lines(document.blocks):
        text = as_text(line, before, document.name)
        counts.update((text.lower() if self.lower else text).split())
        before += len(line)
    common = counts.most_common(self.max_size)
    kept = [word for word, count in common if count >= self.min_count]
    words = [self.mark, *(word for word in kept if word != self.mark)]
    rare = self.min_count > 1 or self.max_size is not None
    if rare and self.unknown not in words:
      words.append(self.unknown)
    return self._codec(words)

  def _codec(self, words: list[str]) -> WordCodec:
    options = (self.mark, self.both_ends, self.unknown, self.lower)
    return WordCodec(words, *options)


def _read(path: str) -> bytes:
  return read_ready(path, 'a vocabulary with one word a line')

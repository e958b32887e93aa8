"""Subwords by SentencePiece, without any change to the text."""

import dataclasses
import io
import logging
import re
from collections.abc import Iterator

import sentencepiece

from lctx.data.codec import Tokenizer, as_text, read_ready
from lctx.data.corpora import Corpus
from lctx.data.documents import LONGEST_LINE, digest, lines
from lctx.data.piece_codec import PieceCodec

_log = logging.getLogger(__name__)

# The text stays as it is, and two marks and the bytes come first.
_UNCHANGED = {
  'byte_fallback': True,
  'normalization_rule_name': 'identity',
  'add_dummy_prefix': False,
  'remove_extra_whitespaces': False,
  'allow_whitespace_only_pieces': True,
  'max_sentence_length': LONGEST_LINE,
  'unk_id': 0,
  'bos_id': 1,
  'eos_id': -1,
  'pad_id': -1,
  'minloglevel': 2,
}
_SMALLEST = 2 + 256 + 1  # unknown, start, the bytes, one piece


@dataclasses.dataclass(frozen=True)
class SentencePiece(Tokenizer):
  """Subwords learned from the train split; what has none falls to bytes.

  `model` is 'unigram' (Kudo 2018) or 'bpe'. It is trained on every k-th line
  where the split has more than `sample` bytes. `path` takes a ready .model
  file instead, and then nothing is trained. A piece never holds a newline.
  """

  vocab_size: int = 8000
  model: str = 'unigram'
  path: str = ''
  coverage: float = 0.9995
  sample: int = 10_000_000
  codec = PieceCodec

  def __post_init__(self):
    if self.model not in ('unigram', 'bpe'):
      raise ValueError(
        f'data.tokenizer.model={self.model!r} is no kind of SentencePiece we '
        "train. Use 'unigram' or 'bpe'."
      )
    if self.vocab_size < _SMALLEST:
      raise ValueError(
        f'data.tokenizer.vocab_size={self.vocab_size} is too small: two marks '
        f'and 256 bytes come first, so {_SMALLEST} is the least. Use more, or '
        'data.tokenizer=bytes.'
      )
    if not (0.98 <= self.coverage <= 1 and self.sample > 0):
      raise ValueError(
        f'data.tokenizer.coverage={self.coverage} must be from 0.98 to 1, and '
        f'data.tokenizer.sample={self.sample} a number of bytes above 0.'
      )
    if self.path and dataclasses.replace(self, path='') != SentencePiece():
      raise ValueError(
        f'data.tokenizer.path={self.path} is a ready model, so vocab_size, '
        'model, coverage and sample have no effect. Unset them or the path; '
        '--config.data.tokenizer=sentencepiece unsets all that a config set.'
      )

  def _source(self, corpus, folder):
    if self.path:
      return digest('ready', _read(self.path))
    return digest(repr(self), corpus.fingerprint(folder))

  def _make(self, corpus):
    return _open(self.path) if self.path else self._train(corpus)

  def _train(self, corpus: Corpus) -> PieceCodec:
    documents = corpus.documents('train', utf8=True)
    total = sum(document.num_bytes() for document in documents)
    every = max(1, -(-total // self.sample))
    written = io.BytesIO()
    _log.info(
      'training SentencePiece (%s, %d) on %s bytes, every %d. line',
      self.model,
      self.vocab_size,
      f'{total // every:,}',
      every,
    )
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(corpus, every),
        model_writer=written,
        vocab_size=self.vocab_size,
        model_type=self.model,
        character_coverage=self.coverage,
        **_UNCHANGED,
      )
    except RuntimeError as error:
      raise ValueError(self._explain(str(error))) from error
    return PieceCodec(written.getvalue())

  def _explain(self, message: str) -> str:
    field = f'data.tokenizer.vocab_size={self.vocab_size}'
    if few := re.search(r'smaller than required_chars\. \d+ vs (\d+)', message):
      return (
        f'{field} is too small: the marks, the bytes and the characters of '
        f'this corpus need at least {few[1]}. Use that or more.'
      )
    if many := re.search(r'value <= (\d+)', message):
      return (
        f'{field} is too large: this corpus has only enough text for '
        f'{many[1]}. Use that or fewer, or more text.'
      )
    return (
      f'{field}: SentencePiece cannot be trained on this corpus: {message} '
      'Give it more text, or use data.tokenizer=bytes.'
    )


def _sentences(corpus: Corpus, every: int) -> Iterator[str]:
  number = 0
  for document in corpus.documents('train', utf8=True):
    before = 0
    for line in lines(document.blocks):
      text = as_text(line, before, document.name)
      before += len(line)
      if number % every == 0 and text.rstrip('\n'):
        yield text.rstrip('\n')
      number += 1


def _read(path: str) -> bytes:
  return read_ready(path, 'a SentencePiece .model file')


def _open(path: str) -> PieceCodec:
  try:
    return PieceCodec(_read(path))
  except RuntimeError as error:
    raise ValueError(
      f'data.tokenizer.path={path} is not a SentencePiece model ({error}). '
      'Give the path of a .model file.'
    ) from error

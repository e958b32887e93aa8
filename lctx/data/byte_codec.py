"""Tokenizers whose ids are bytes."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np

from lctx.data.codec import NO_NAME, Codec, Tokenizer
from lctx.data.documents import SPLITS, digest


class ByteCodec(Codec):
  """One id for each byte in `symbols`; bytes in `dropped` vanish."""

  kind = 'bytes'
  utf8 = False

  def __init__(self, symbols: Iterable[int], dropped: bytes = b''):
    self._symbols = list(symbols)
    self._dropped = dropped
    super().__init__([bytes([symbol]) for symbol in self._symbols], start=0)
    if self._symbols[0] == 0:
      self.num_bytes[0] = 0  # a mark; zero bytes hardly occur in text
    self._ids = np.full(256, -1, np.int32)
    self._ids[self._symbols] = np.arange(len(self._symbols))

  def stream(
    self, blocks: Iterable[bytes], name: str = NO_NAME
  ) -> Iterator[np.ndarray]:
    before = 0
    for block in blocks:
      ids = self._ids[np.frombuffer(block, np.uint8)]
      unknown = np.flatnonzero(ids < 0)
      for at in unknown.tolist() if len(unknown) else ():
        if block[at] not in self._dropped:
          raise ValueError(
            f'data.tokenizer has no id for byte 0x{block[at]:02x}, met in '
            f'{name} at byte {before + at}: it did not occur in the corpus. '
            'Use data.tokenizer=bytes, which has all 256, or leave it out.'
          )
      before += len(block)
      yield ids[ids >= 0] if len(unknown) else ids

  def state(self) -> dict:
    return {'symbols': self._symbols, 'dropped': list(self._dropped)}

  @classmethod
  def restore(cls, state: dict) -> Self:
    return cls(state['symbols'], bytes(state['dropped']))


@dataclasses.dataclass(frozen=True)
class Bytes(Tokenizer):
  """Every byte is its own id, 256 in all; byte 0 also opens documents."""

  codec = ByteCodec

  def _source(self, corpus, folder):
    return ''

  def _make(self, corpus):
    return ByteCodec(range(256))


@dataclasses.dataclass(frozen=True)
class PublishedBytes(Tokenizer):
  """The vocabulary of the published Transformer-XL for enwik8 and text8.

  The bytes that occur in any split, most frequent first: 204 and 27. The
  published code splits lines and so loses newlines; `newlines` keeps them
  (205 for enwik8, as adaptive-span has it). The first id, the space, also
  opens documents.
  """

  newlines: bool = False
  codec = ByteCodec

  def _source(self, corpus, folder):
    return digest(repr(self), corpus.fingerprint(folder))

  def _make(self, corpus):
    counts = np.zeros(256, np.int64)
    met: list[int] = []  # in order of first occurrence, which settles ties
    for split in SPLITS:
      for document in corpus.documents(split):
        for block in document.blocks:
          values = np.frombuffer(block, np.uint8)
          counts += np.bincount(values, minlength=256)
          new = set(np.flatnonzero(counts).tolist()) - set(met)
          met += sorted(new, key=block.index)
    dropped = b'' if self.newlines else b'\n'
    kept = [byte for byte in met if byte not in dropped]
    return ByteCodec(sorted(kept, key=lambda byte: -counts[byte]), dropped)

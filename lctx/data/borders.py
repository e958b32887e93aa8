"""Where words begin and sentences end, by the bytes that tokens stand for."""

import re

import numpy as np

from lctx.data.codec import Codec

_END = re.compile(rb'[.!?]["\')\]]*\s*$|\n\s*$')


def word_begins(codec: Codec, ids: np.ndarray) -> np.ndarray:
  """bool [n]: the first token, and those that begin with or follow a space.

  A mark is a word of its own.
  """
  pieces = [codec.pieces[id] for id in ids]
  spaced = np.array([piece[:1].isspace() for piece in pieces], bool)
  open_ = np.array(
    [not piece or piece[-1:].isspace() for piece in pieces], bool
  )
  alone = np.array([not piece for piece in pieces], bool)
  begins = spaced | alone
  begins[1:] |= open_[:-1] & ~spaced[1:]
  if len(begins):
    begins[0] = True
  return begins


def sentence_ends(codec: Codec, ids: np.ndarray) -> np.ndarray:
  """bool [n]: the last token of each sentence, and of the text.

  A sentence ends with a full stop, a question or an exclamation mark before a
  space, or at the end of a line; spaces after it are its own, as far as they
  are tokens.
  """
  pieces = [codec.pieces[id] for id in ids]
  ends = np.zeros(len(ids), bool)
  before = b''
  for i, piece in enumerate(pieces):
    before = (before + piece)[-8:]
    after = pieces[i + 1] if i + 1 < len(pieces) else b' '
    is_over = _END.search(before) is not None
    ends[i] = is_over and (before[-1:].isspace() or after[:1].isspace())
    if ends[i] and after and not after.strip():
      ends[i] = False  # the space that follows ends it
  if len(ends):
    ends[-1] = True
  return ends

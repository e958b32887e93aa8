"""The bytes that the tokens of a published vocabulary stand for."""

import functools
import re
from collections.abc import Callable

_SPACE = '\u2581'  # how SentencePiece writes a space
_BYTE = re.compile('<0x([0-9A-Fa-f]{2})>')


def spelling(decoder: dict | None) -> Callable[[str], bytes]:
  """What makes bytes of a token, by the decoder of its `tokenizer.json`.

  Joined, they are the text where it is `byte_level`. Elsewhere a token that
  begins a word has the space before it, also at the beginning of a text.

  Raises: ValueError for a decoder of another kind.
  """
  steps = _steps(decoder)
  kinds = [step['type'] for step in steps]
  if kinds == ['ByteLevel']:
    return byte_level
  if kinds == ['WordPiece']:
    return functools.partial(_word, prefix=steps[0]['prefix'])
  if _SPACE in str(decoder):
    return functools.partial(_piece, has_bytes='ByteFallback' in kinds)
  raise ValueError(
    f'the decoder of this tokenizer is {" and ".join(kinds) or None}. We know '
    'how tokens are spelled byte-level, by SentencePiece and by WordPiece. '
    'Give the folder of a tokenizer of one of these kinds.'
  )


def byte_level(token: str) -> bytes:
  """Byte-level BPE: a character a byte (Radford et al. 2019, section 2.2).

  A token that is not written so, as some that were added, is its own text.
  """
  try:
    return bytes(BYTES[character] for character in token)
  except KeyError:
    return token.encode()


def _byte_characters() -> dict[str, int]:
  """Printable bytes are their own characters; the others follow in order."""
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [byte for byte in range(256) if byte not in shown]
  moved = {chr(256 + i): byte for i, byte in enumerate(hidden)}
  return {chr(byte): byte for byte in shown} | moved


BYTES = _byte_characters()


def _piece(token: str, has_bytes: bool) -> bytes:
  if has_bytes and (byte := _BYTE.fullmatch(token)):
    return bytes([int(byte[1], 16)])
  return token.replace(_SPACE, ' ').encode()


def _word(token: str, prefix: str) -> bytes:
  if token.startswith(prefix):
    return token.removeprefix(prefix).encode()
  return f' {token}'.encode()


def _steps(decoder: dict | None) -> list[dict]:
  if decoder is None:
    return []
  if decoder['type'] != 'Sequence':
    return [decoder]
  return [step for part in decoder['decoders'] for step in _steps(part)]

"""The tokenizer of llama2.c, as a `tokenizer.json` that `tokenizers` reads.

Its file holds the longest token's length, and of each token a score, a length
and bytes; the score is how early it was merged. What SentencePiece marks as a
space is one there.
"""

import json
import struct
from pathlib import Path

SPACE = '\u2581'
MARKS = 3  # <unk>, <s>, </s>; then the bytes


def tokenizer_json(path: str | Path) -> str:
  """Its text, of a byte-pair encoding with bytes for what has no token.

  Raises ValueError for a file that is damaged.
  """
  tokens = _read(Path(path))
  names = ['<unk>', '<s>', '</s>', *(f'<0x{x:02X}>' for x in range(256))]
  pieces = [(score, text.replace(' ', SPACE)) for score, text in tokens]
  pieces = pieces[len(names) :]
  vocabulary = {x: i for i, x in enumerate(names)}
  for i, (_, piece) in enumerate(pieces, start=len(names)):
    vocabulary.setdefault(piece, i)
  marks = [
    {
      'id': i,
      'content': x,
      'special': True,
      'normalized': False,
      **dict.fromkeys(('single_word', 'lstrip', 'rstrip'), False),
    }
    for i, x in enumerate(names[:MARKS])
  ]
  spaces = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': SPACE}
  back = {'type': 'Replace', 'pattern': {'String': SPACE}, 'content': ' '}
  strip = {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}
  return json.dumps(
    {
      'version': '1.0',
      'added_tokens': marks,
      'normalizer': {
        'type': 'Sequence',
        'normalizers': [{'type': 'Prepend', 'prepend': SPACE}, spaces],
      },
      'pre_tokenizer': None,
      'post_processor': None,
      'decoder': {
        'type': 'Sequence',
        'decoders': [
          back,
          *({'type': x} for x in ('ByteFallback', 'Fuse')),
          strip,
        ],
      },
      'model': {
        'type': 'BPE',
        'unk_token': '<unk>',
        'fuse_unk': True,
        'byte_fallback': True,
        'vocab': vocabulary,
        'merges': _merges(pieces, vocabulary),
      },
    }
  )


def _merges(pieces, vocabulary) -> list[list[str]]:
  """Pairs that make a token, the best first."""
  found = []
  for score, piece in pieces:
    for cut in range(1, len(piece)):
      pair = piece[:cut], piece[cut:]
      if all(part in vocabulary for part in pair):
        ids = [vocabulary[part] for part in pair]
        found.append((-score, ids, list(pair)))
  return [pair for _, _, pair in sorted(found)]


def _read(path: Path) -> list[tuple[float, str]]:
  data, at, found = path.read_bytes(), 4, []
  try:
    while at < len(data):
      score, length = struct.unpack_from('<fi', data, at)
      if length < 0 or at + 8 + length > len(data):
        raise ValueError('it ends within a token')
      text = data[at + 8 : at + 8 + length].decode()
      found.append((score, text))
      at += 8 + length
  except (struct.error, ValueError) as error:
    raise ValueError(
      f'{path} is no tokenizer of llama2.c, or damaged: {error}. Copy it again.'
    ) from error
  return found

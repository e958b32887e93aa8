"""Text from tokens as they come: a character is given when it is whole."""

import codecs
from collections.abc import Iterable, Iterator

import numpy as np

from lctx.data.codec import Codec

LONGEST = 200  # characters of a line that is shown before it ends


class Spelling:
  """A text in UTF-8 that grows token by token.

  Bytes that are no UTF-8 become the replacement character. Tokens below 0
  stand for nothing.
  """

  def __init__(self, codec: Codec):
    self._codec = codec
    self._utf8 = codecs.getincrementaldecoder('utf-8')('replace')

  def add(self, token: int) -> str:
    """The characters that this token completes."""
    return self._utf8.decode(self._codec.pieces[token] if token >= 0 else b'')

  def end(self) -> str:
    """What was left over."""
    return self._utf8.decode(b'', final=True)


def spell(codec: Codec, tokens: Iterable[int]) -> Iterator[str]:
  """What each token adds to a text; at last, what was left over."""
  spelling = Spelling(codec)
  for token in tokens:
    yield spelling.add(token)
  yield spelling.end()


def show_each(
  codec: Codec, prompts: list[bytes], tokens: Iterable[np.ndarray]
) -> None:
  """Prints several texts, line by line as they fill, each with its number."""
  for number, prompt in enumerate(prompts, start=1):
    print(f'--- {number}: {_shortened(prompt)}')
  spelling = [Spelling(codec) for _ in prompts]
  waiting = [''] * len(prompts)
  for step in tokens:
    for row, token in enumerate(step):
      waiting[row] += spelling[row].add(int(token))
      *lines, waiting[row] = waiting[row].split('\n')
      if len(waiting[row]) >= LONGEST:
        lines, waiting[row] = [*lines, waiting[row]], ''
      for line in lines:
        print(f'{row + 1}| {line}', flush=True)
  for row, rest in enumerate(waiting):
    if rest := rest + spelling[row].end():
      print(f'{row + 1}| {rest}')


def _shortened(prompt: bytes, length: int = 70) -> str:
  text = ' '.join(prompt.decode('utf-8', 'replace').split())
  return text if len(text) <= length else f'... {text[-length:]}'

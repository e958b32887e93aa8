"""Text comes in whole characters, whatever tokens cut it into."""

import numpy as np

from lctx.data.byte_codec import ByteCodec
from lctx.generation.text import LONGEST, show_each, spell

CODEC = ByteCodec(range(256))


def test_a_character_of_many_bytes_comes_when_its_last_byte_does():
  ids = CODEC.encode('aé€')
  assert list(spell(CODEC, ids)) == ['a', '', 'é', '', '', '€', '']


def test_all_together_is_the_text_decoded_at_once():
  data = np.random.RandomState(0).bytes(500) + 'ende€'.encode()[:-1]
  wanted = data.decode('utf-8', 'replace')
  assert ''.join(spell(CODEC, CODEC.encode(data))) == wanted


def test_several_texts_come_line_by_line_as_they_fill(capsys):
  def tokens():
    for pair in zip(CODEC.encode('ab\ncd'), CODEC.encode('x' * 4 + '\n')):
      yield np.array(pair)
      shown.append(capsys.readouterr().out)

  shown = []
  show_each(CODEC, [b'one', b'two'], tokens())
  assert shown[0].splitlines() == ['--- 1: one', '--- 2: two']
  assert shown[1:] == ['', '1| ab\n', '', '2| xxxx\n']
  assert capsys.readouterr().out == '1| cd\n'


def test_a_line_that_does_not_end_is_shown_in_pieces(capsys):
  long = CODEC.encode('x' * 1000)
  show_each(CODEC, [b''], (np.array([t]) for t in long))
  lines = capsys.readouterr().out.splitlines()[1:]
  assert lines == [f'1| {"x" * LONGEST}'] * (1000 // LONGEST)


def test_a_row_that_ended_adds_nothing():
  assert ''.join(spell(CODEC, [65, 66, -1, -1])) == 'AB'

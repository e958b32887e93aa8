"""Text comes in whole characters, whatever tokens cut it into."""

import numpy as np

from lctx.data.byte_codec import ByteCodec
from lctx.generation.text import spell

CODEC = ByteCodec(range(256))


def test_a_character_of_many_bytes_comes_when_its_last_byte_does():
  ids = CODEC.encode('aé€')
  assert list(spell(CODEC, ids)) == ['a', '', 'é', '', '', '€', '']


def test_all_together_is_the_text_decoded_at_once():
  data = np.random.RandomState(0).bytes(500) + 'ende€'.encode()[:-1]
  wanted = data.decode('utf-8', 'replace')
  assert ''.join(spell(CODEC, CODEC.encode(data))) == wanted


def test_a_row_that_ended_adds_nothing():
  assert ''.join(spell(CODEC, [65, 66, -1, -1])) == 'AB'

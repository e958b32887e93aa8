"""A mixture gives each part its share of bytes and reads all of it."""

import collections
import dataclasses
import logging

import pytest

from lctx.data import Document, Mixture, Text
from lctx.data.left_out import LeftOut


@dataclasses.dataclass(frozen=True)
class Fixed:
  """A corpus of documents of these lengths; the same in each split."""

  letter: str
  lengths: tuple[int, ...]

  def documents(self, split, *, utf8=False, left_out=None):
    for number, length in enumerate(self.lengths):
      yield Document(f'{number}', [self.letter.encode()] * length)

  def fingerprint(self, folder=None):
    return repr(self)


def test_shares_of_bytes_follow_the_weights_all_along():
  parts = (Fixed('a', (10,) * 300), Fixed('b', (7, 3, 20) * 100))
  mixture = Mixture(parts, (3, 1))
  total, most = collections.Counter(), 20
  for document in mixture.documents('train'):
    total[document.name[0]] += document.num_bytes()
    for index, weight in (('0', 3), ('1', 1)):
      share = sum(total.values()) * weight / 4
      assert abs(total[index] - share) <= most
  assert total['1'] >= 3000  # the last part to end is read to its end


def test_a_part_that_runs_out_begins_again_and_its_passes_are_told(caplog):
  mixture = Mixture((Fixed('a', (4, 6)), Fixed('b', (10,) * 8)), (1, 1))
  with caplog.at_level(logging.INFO, 'lctx'):
    names = [d.name for d in mixture.documents('train')]
  assert len(set(names)) == len(names)
  assert [n for n in names if n[0] == '1'] == [f'1/{n}' for n in range(8)]
  assert {'0/0', '0/1', '0.2/0', '0.7/1'} <= set(names)
  assert 'part 0: 7 whole passes' in caplog.text
  assert 'part 1: 1 whole passes' in caplog.text


def test_blocks_that_are_read_are_those_of_the_parts():
  mixture = Mixture((Fixed('a', (2,)), Fixed('b', (2, 1))), (2, 1))
  texts = [b''.join(d.blocks) for d in mixture.documents('train')]
  assert texts == [b'aa', b'bb', b'aa', b'aa', b'b']


def test_held_out_splits_are_one_pass_over_each_part():
  mixture = Mixture((Fixed('a', (1, 1)), Fixed('b', (1,))), (1, 9))
  for split in ('valid', 'test'):
    names = [d.name for d in mixture.documents(split)]
    assert names == ['0/0', '0/1', '1/0']


def test_parts_skip_what_is_damaged_and_it_is_counted_once(tmp_path):
  for part, texts in (('one', [b'a', b'\xff', b'']), ('two', [b'b' * 9])):
    (tmp_path / part).mkdir()
    for number, text in enumerate([*texts, b'more', b'yet more', b'held']):
      (tmp_path / part / f'{number}.txt').write_bytes(text)
  one = Text(str(tmp_path / 'one'), damaged='skip')
  mixture = Mixture((one, Text(str(tmp_path / 'two'))), (1, 7))
  wanted = {'not UTF-8': (1, '0/1.txt'), 'empty': (1, '0/2.txt')}
  for split in ('train', 'valid'):
    left_out = LeftOut()
    read = mixture.documents(split, utf8=True, left_out=left_out)
    assert not any(b'\xff' in b''.join(d.blocks) for d in read)
    assert left_out.kinds == wanted
    list(mixture.documents(split, left_out=left_out))
    assert left_out.kinds == {'empty': (1, '0/2.txt')}


def test_weights_and_parts_change_the_fingerprint():
  a, b = Fixed('a', (1,)), Fixed('b', (1,))
  mixtures = [
    Mixture((a, b), (1, 1)),
    Mixture((b, a), (1, 1)),
    Mixture((a, b), (1, 2)),
  ]
  assert len({mixture.fingerprint() for mixture in mixtures}) == 3


@pytest.mark.parametrize('weights', [(1, 0), (1, -1), (1, float('inf'))])
def test_a_weight_is_above_zero(weights):
  with pytest.raises(ValueError, match=r'data.corpus.weights'):
    Mixture((Fixed('a', (1,)), Fixed('b', (1,))), weights)


def test_parts_and_weights_go_together():
  for mixture in (Mixture(), Mixture((Fixed('a', (1,)),), (1, 2))):
    with pytest.raises(ValueError, match=r'data.corpus.weights'):
      mixture.fingerprint()
  with pytest.raises(ValueError, match=r'part 0 has no document'):
    list(Mixture((Fixed('a', ()),), (1,)).documents('train'))

"""The benchmark of stretched positions, without its training."""

import numpy as np
import pytest

import lctx
from benchmarks import stretch
from lctx.data.byte_codec import ByteCodec
from lctx.positions import NtkAware


def run_of(way, short, long):
  """Eight documents whose losses rise with their number."""
  blocks = stretch.LONG // stretch.BLOCK
  number = np.arange(8)[:, None] / 10

  def losses(base):
    return (base + number + np.zeros((8, blocks))).tolist()

  both = {'512': losses(short), '4096': losses(long)}
  return {'way': way, 'seconds': 60.0, 'before': both, 'after': both}


def test_the_tables_say_what_was_lost_where():
  found = [run_of('at 512', 3.0, 5.0), run_of('YaRN', 3.0, 2.5)]
  before, after = stretch.table(found).splitlines()[2::2][:2]
  assert before.split()[:3] == ['at', '512,', 'before']
  assert after.split()[:2] == ['at', '512,']
  gain = stretch.gains(found).splitlines()[-1]
  assert gain.split()[:2] == ['YaRN', '+0.5000']
  assert stretch.gains(found[1:]) == ''


def test_what_is_read_is_the_beginning_of_documents_held_out(tmp_path):
  for number in range(10):
    text = bytes([65 + number]) * (stretch.LONG + number)
    (tmp_path / f'{number}.txt').write_bytes(text)
  corpus = lctx.Text(str(tmp_path / '*.txt'), lctx.ByDocument(0.1, 0.2))
  model = lctx.presets.llama(1, 16, 2, 512)
  config = lctx.Config(model, lctx.Lanes(corpus), lctx.Adam(1e-3))
  ids = stretch.held_out(config, ByteCodec(range(256)))
  assert ids.shape == (2, 1 + stretch.LONG) and not ids[:, 0].any()
  assert len({*ids[:, 1:].ravel()}) == 2
  few = lctx.Text(str(tmp_path / '0.txt'), lctx.ByBytes())
  config = lctx.Config(model, lctx.Lanes(few), lctx.Adam(1e-3))
  with pytest.raises(lctx.UserError, match='held-out documents'):
    stretch.held_out(config, ByteCodec(range(256)))


def test_each_way_is_what_its_name_says():
  assert stretch.WAYS['NTK-aware'] == (4096, NtkAware(8.0))
  assert stretch.WAYS['at 512'][0] == 512

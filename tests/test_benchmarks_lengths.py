"""The benchmark of memory lengths, in small."""

import itertools

import numpy as np
import pytest

import lctx
from benchmarks import lengths

SEGMENT = 4


@pytest.fixture(autouse=True)
def small(monkeypatch):
  for name, value in {
    'SEGMENT': SEGMENT,
    'DEPTH': 1,
    'WIDTH': 32,
    'HEADS': 2,
    'ROWS': 8,
  }.items():
    monkeypatch.setattr(lengths, name, value)


def text_of(folder, count):
  path = folder / 'text'
  letters = np.random.default_rng(0).integers(97, 123, count, np.uint8)
  path.write_bytes(letters.tobytes())
  return path


def test_what_is_held_out_is_the_end_of_the_text(tmp_path):
  path = text_of(tmp_path, 16_000)
  ids = lengths.held_out(str(path))
  assert ids.shape == (12, 1 + 2 * 8 * SEGMENT) and not ids[:, 0].any()
  end = path.read_bytes()[-800:]
  assert bytes(ids[:, 1:].ravel().tolist()) == end[: 12 * 64]


def test_a_text_that_is_too_short_is_refused(tmp_path):
  path = text_of(tmp_path, 8_000)
  with pytest.raises(lctx.UserError, match='are 400 bytes, and 768 are needed'):
    lengths.held_out(str(path))


def test_each_length_is_trained_and_the_longest_reads_with_all(tmp_path):
  path, every = text_of(tmp_path, 16_000), [0, 2, 4]
  found = [
    lengths.measured(str(path), tmp_path / 'runs', every, length, steps=2)
    for length in (2, 4)
  ]
  assert [[*x['bits']] for x in found] == [['2'], ['0', '2', '4']]
  shorter, longest = (x['bits']['2'] for x in found)
  assert len(shorter) == 12 and shorter != longest  # two models
  for one, other in itertools.combinations(found[1]['bits'].values(), 2):
    assert one != other
  assert {x['text'] for x in found} == {lengths.digest(str(path))}
  lines = lengths.table(found[::-1]).splitlines()
  assert [line.split()[0] for line in lines[2:]] == ['2', '4']


def run_of(length, bits):
  reads = {
    str(x): [bits] * 4 for x in ([length] if length < 100 else (50, 100))
  }
  return {'memory': length, 'steps': 1, 'seconds': 1.0, 'bits': reads}


def test_a_gain_is_over_the_next_shorter_memory():
  lines = lengths.table([run_of(100, 1.5), run_of(50, 2.0)]).splitlines()
  assert '+0.5000 (+0.5000..+0.5000)' in lines[3]
  assert '(' not in lines[2] and '+0.0000' in lines[3]

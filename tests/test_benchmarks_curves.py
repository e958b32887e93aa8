"""Curves of several runs come from what each of them has logged."""

import json
import math

import pytest

import lctx
from benchmarks import curves


def run_of(folder, losses):
  """The workdir of a training that logged every tenth step."""
  folder.mkdir()
  records = [{'step': 10 * i, 'loss': x} for i, x in enumerate(losses, 1)]
  records[1]['valid/bits_per_token'] = 3.5
  lines = map(json.dumps, [{'step': 0, 'flops': 7}, *records])
  (folder / 'metrics.jsonl').write_text('\n'.join(lines))
  units = {'units': {'bits_per_token': 2.75}}
  (folder / 'eval.json').write_text(json.dumps(units))
  return folder


def test_a_row_has_bits_from_the_first_logged_step_to_the_test(tmp_path):
  one = curves.read(run_of(tmp_path / 'one', [4.0, 3.0, 2.0]))
  assert one.valid == [(20, 3.5)]
  row = curves.table([one]).splitlines()[-1].split()
  nats = 1 / math.log(2)
  assert row[0] == 'one' and row[1:4] == ['10', 'to', '30']
  assert row[4:] == [f'{4 * nats:.3f}', f'{2 * nats:.3f}', '3.500', '2.750']


def test_the_picture_has_a_panel_for_each_run(tmp_path):
  found = [curves.read(run_of(tmp_path / x, [4.0, 3.0])) for x in 'abcde']
  curves.draw(found, str(tmp_path / 'all.png'))
  wide = (tmp_path / 'all.png').stat().st_size
  curves.draw(found[:1], str(tmp_path / 'one.png'))
  assert wide > (tmp_path / 'one.png').stat().st_size > 1000


def test_a_run_that_has_not_ended_is_named(tmp_path):
  with pytest.raises(lctx.UserError, match=r'nothing has no metrics\.jsonl'):
    curves.read(tmp_path / 'nothing')

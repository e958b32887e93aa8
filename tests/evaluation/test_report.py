"""The report: what stands in it, on screen and in JSON."""

import json
import math

import pytest

from lctx.evaluation.gain import Comparison, Estimate, Loss, Stretch
from lctx.evaluation.report import Result, save_json, summary, table
from lctx.evaluation.units import units


def stretch(first=128, end=256, documents=40, **changes) -> Stretch:
  def loss(bits):
    return Loss(Estimate(bits, bits - 0.1, bits + 0.1), Estimate(2 * bits))

  values = {
    'tokens': 1_234_567,
    'num_bytes': 2_469_134,
    'own': loss(2.1234),
    'swap': loss(2.5),
    'none': loss(2.4),
    'gain': Estimate(0.2766, 0.2, 0.35),
    'gain_over_swap': Estimate(0.3766, 0.3, 0.45),
  }
  return Stretch(first, end, documents, **{**values, **changes})


def result(past: Stretch | None = None, note: str = '') -> Result:
  past = past or stretch()
  bins = (past, stretch(1_048_576, 1_482_910, 2))
  return Result(
    title='stdlib, test split, checkpoint of step 2,000',
    units=units(1e9, 10**9, num_bytes=10**9, num_chars=10**9, num_words=10**8),
    comparison=Comparison(128, past, bins, 2000, note),
    positions=bins,
  )


def row(text: str, name: str) -> list[str]:
  (line,) = [x for x in text.splitlines() if x.strip().startswith(name)]
  return line.strip()[len(name) :].split()


def test_the_summary_gives_each_condition_and_gain_with_its_interval():
  text = summary(result().comparison)
  own = row(text, 'with its memory')
  assert own == ['2.1234', '2.0234', 'to', '2.2234']
  assert row(text, 'with the memory of another document (swap)')[0] == '2.5000'
  assert row(text, 'without memory')[0] == '2.4000'
  gain = row(text, 'gain: without memory - with its memory')
  assert gain == ['+0.2766', '+0.2000', 'to', '+0.3500']
  assert row(text, 'gain: swap - with its memory')[0] == '+0.3766'
  assert '1,234,567 tokens, 2,469,134 bytes, 40 documents' in text
  assert '2,000 resamples' in text


def test_a_summary_without_intervals_says_why():
  alone = stretch(documents=1, gain=Estimate(0.3))
  text = summary(result(alone, 'One document.').comparison)
  assert row(text, 'gain: without memory - with its memory') == ['+0.3000']
  assert '1 document\n' in text
  assert 'resamples' not in text
  assert text.endswith('One document.')


def test_a_condition_that_was_not_measured_has_no_line():
  past = stretch(swap=None, gain_over_swap=None)
  text = summary(result(past).comparison)
  assert 'swap' not in text and 'without memory' in text


def test_the_table_fits_80_columns_and_shows_every_unit_and_bin():
  text = table(result())
  assert max(map(len, text.splitlines())) <= 80
  assert row(text, 'bits per byte  ') == [f'{1 / math.log(2):.4f}']
  assert row(text, 'perplexity per token') == ['2.71828']
  assert row(text, 'tokens') == ['1,000,000,000']
  assert row(text, '1,048,576 to 1,482,909')[:5] == [
    '2',
    '2.123',
    '2.500',
    '2.400',
    '+0.277',
  ]


def test_where_memory_is_not_compared_a_line_says_so():
  text = table(Result('no memory', result().units, None))
  assert 'bits per character' in text and 'segment' not in text
  assert text.splitlines()[-1].startswith('Memory is not compared: ')
  assert max(map(len, text.splitlines())) <= 80


def test_a_missing_number_is_a_dash():
  nothing = Loss(Estimate(None), Estimate(None))
  past = stretch(own=nothing, gain=Estimate(None))
  counts = units(1.0, 0, num_bytes=0, num_chars=0, num_words=0)
  text = table(Result('t', counts, result(past).comparison))
  assert row(text, 'bits per byte  ') == ['-']
  assert row(text, 'with its memory') == ['-']


def test_json_holds_every_number_by_name_and_null_where_none_is_finite(
  tmp_path,
):
  path = tmp_path / 'new folder' / 'eval.json'
  broken = stretch(gain=Estimate(math.nan, None, math.inf))
  save_json(result(broken), path)
  content = json.loads(path.read_text())
  past = content['comparison']['past']
  assert past['own']['bits_per_byte']['value'] == pytest.approx(2.1234)
  assert past['gain'] == {'value': None, 'low': None, 'high': None}
  assert content['units']['bits_per_token'] == pytest.approx(1 / math.log(2))
  assert len(content['positions']) == 2
  assert [p.name for p in path.parent.iterdir()] == ['eval.json']

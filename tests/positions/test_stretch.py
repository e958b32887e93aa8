"""Frequencies are those of the papers, and those that transformers computes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lctx.fields import options_of
from lctx.overrides import from_json, override, to_json
from lctx.positions.rope import (
  DynamicNtk,
  Linear,
  Llama3,
  LongRope,
  NtkAware,
  NtkByParts,
  Plain,
  Rope,
  Stretch,
  Yarn,
)

GOLDEN = Path(__file__).parents[1] / 'golden/rope/frequencies.json'
CASES = json.loads(GOLDEN.read_text())['cases']
KINDS = ('linear', 'dynamic', 'yarn', 'longrope', 'llama3')
SIZES = [(8, 1e4, 64), (32, 5e5, 8192), (128, 1e4, 2048)]
FIELD = r'^model\.position\.stretch\.'


def searched(count):
  return tuple(1 + i / 8 for i in range(count)), tuple(
    1 + i / 2 for i in range(count)
  )


def theta_of(width, base):
  return [1 / base ** (2 * i / width) for i in range(width // 2)]


def ramp(low, high, x):
  return min(max((x - low) / (high - low), 0), 1)


def by_turns(theta, s, trained, slow, fast):
  """Peng et al. 2023, equations 17 to 21: r, gamma(r), h(theta)."""
  gamma = ramp(slow, fast, trained * theta / (2 * math.pi))
  return (1 - gamma) * theta / s + gamma * theta


def oracle_yarn(width, base, s, trained):
  """Pair i turns r times where i = d ln(L / (2 pi r)) / (2 ln b)."""
  low, high = (
    width * math.log(trained / (2 * math.pi * r)) / (2 * math.log(base))
    for r in (32, 1)
  )
  low, high = max(math.floor(low), 0), min(math.ceil(high), width - 1)
  theta = theta_of(width, base)
  shares = [ramp(low, high, i) for i in range(width // 2)]
  return [(1 - x) * t + x * t / s for t, x in zip(theta, shares)]


@pytest.mark.parametrize('width, base, trained', SIZES)
def test_frequencies_are_their_equations(width, base, trained):
  theta, s, d = theta_of(width, base), 4.0, width
  short, long = searched(width // 2)
  larger = base * s ** (d / (d - 2))
  length = 3 * trained
  dynamic = base * (s * length / trained - (s - 1)) ** (d / (d - 2))
  wanted = {
    Plain(): theta,
    Linear(s): [t / s for t in theta],
    NtkAware(s): theta_of(width, larger),
    DynamicNtk(s, trained, length): theta_of(width, dynamic),
    DynamicNtk(s, trained, trained // 2): theta,
    NtkByParts(s, trained): [by_turns(t, s, trained, 1, 32) for t in theta],
    Llama3(s, trained): [by_turns(t, s, trained, 1, 4) for t in theta],
    Yarn(s, trained): oracle_yarn(width, base, s, trained),
    LongRope(short, long, trained, trained, s): [
      1 / (x * base ** (2 * i / d)) for i, x in enumerate(short)
    ],
    LongRope(short, long, trained, trained + 1, s): [
      1 / (x * base ** (2 * i / d)) for i, x in enumerate(long)
    ],
  }
  for stretch, want in wanted.items():
    got = stretch.frequencies(width, base).theta
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=str(stretch))


def test_attention_factors_are_their_equations():
  short, long = searched(4)
  log = math.log(4)
  wanted = {
    Plain(): 1,
    Linear(4): 1,
    NtkAware(4): 1,
    DynamicNtk(4, 64, 200): 1,
    NtkByParts(4, 64): 1,
    Llama3(4, 64): 1,
    Yarn(4, 64): 0.1 * log + 1,
    Yarn(4, 64, attention_factor=1.5): 1.5,
    Yarn(4, 64, mscale=0.5, mscale_all_dim=2): (0.05 * log + 1)
    / (0.2 * log + 1),
    LongRope(short, long, 64, 64, 4): math.sqrt(1 + log / math.log(64)),
    LongRope(short, long, 64, 200, 4): math.sqrt(1 + log / math.log(64)),
    LongRope(short, long, 64, 200, attention_factor=2): 2,
  }
  for stretch, want in wanted.items():
    got = stretch.frequencies(8, 1e4).attention_factor
    assert got == pytest.approx(want, rel=1e-12), stretch


def test_published_values_of_eight_channels():
  wanted = [
    (Linear(4), 1e4, [0.25, 0.025, 0.0025, 0.00025], 1),
    (Yarn(4, 64), 1e4, [1, 0.0625, 0.0025, 0.00025], 1.138629),
    (
      Llama3(8, 64),
      5e5,
      [1, 0.0047007538, 0.00017677668, 6.647870e-6],
      1,
    ),
  ]
  for stretch, base, theta, factor in wanted:
    got = stretch.frequencies(8, base)
    np.testing.assert_allclose(got.theta, theta, rtol=1e-6)
    assert got.attention_factor == pytest.approx(factor, abs=1e-6)


def stretch_of(case):
  """What a published configuration is here."""
  named = dict(case['parameters'])
  trained, length = case['trained'], case['length']
  match case['kind']:
    case 'linear':
      return Linear(**named)
    case 'dynamic':
      return DynamicNtk(**named, trained=trained, length=length)
    case 'yarn':
      ours = {'beta_fast': 'fast', 'beta_slow': 'slow'}
    case 'longrope':
      named['length'] = length
      ours = {'short_factor': 'short', 'long_factor': 'long'}
    case 'llama3':
      ours = {'low_freq_factor': 'low', 'high_freq_factor': 'high'}
  named = {ours.get(name, name): value for name, value in named.items()}
  named = {k: tuple(v) if isinstance(v, list) else v for k, v in named.items()}
  parts = {'yarn': Yarn, 'longrope': LongRope, 'llama3': Llama3}
  return parts[case['kind']](**named, trained=trained)


@pytest.mark.parametrize('kind', KINDS)
def test_transformers_computes_the_same(kind):
  cases = [case for case in CASES if case['kind'] == kind]
  assert len(cases) >= 9
  for case in cases:
    got = stretch_of(case).frequencies(case['width'], case['base'])
    # They take powers in float32: 6e-8 of an exponent, times ln(base).
    np.testing.assert_allclose(
      got.theta, case['theta'], rtol=3e-6, err_msg=str(case)
    )
    assert got.attention_factor == pytest.approx(
      case['attention_factor'], rel=1e-12
    ), case


@pytest.mark.parametrize('width, base, trained', SIZES)
def test_a_factor_of_one_is_no_stretch_to_the_last_bit(width, base, trained):
  ones = (1.0,) * (width // 2)
  want = Plain().frequencies(width, base)
  for stretch in (
    Linear(1),
    NtkAware(1),
    DynamicNtk(1, trained, trained),
    NtkByParts(1, trained),
    Llama3(1, trained),
    Yarn(1, trained),
    Yarn(1, trained, truncate=False),
    Yarn(1, trained, mscale=0.7, mscale_all_dim=2),
    LongRope(ones, ones, trained, 2 * trained, 1),
  ):
    got = stretch.frequencies(width, base)
    assert got.theta.tobytes() == want.theta.tobytes(), stretch
    assert got.attention_factor == 1.0, stretch


def test_fast_pairs_are_kept_and_slow_ones_fully_slowed():
  """Both forms of the ramp agree outside it; it is where they differ."""
  theta = Plain().frequencies(128, 1e4).theta
  turns = 2048 * theta / (2 * math.pi)
  parts = NtkByParts(16, 2048).frequencies(128, 1e4).theta
  yarn = Yarn(16, 2048, truncate=False).frequencies(128, 1e4).theta
  for got in (parts, yarn):
    np.testing.assert_array_equal(got[turns > 32], theta[turns > 32])
    np.testing.assert_allclose(got[turns < 1], theta[turns < 1] / 16)
  between = (turns > 1) & (turns < 32)
  assert (np.abs(yarn - parts)[between] > 1e-6).all()


def test_only_stretches_by_length_ask_for_one():
  short, long = searched(4)
  ones = [Linear(2), NtkAware(2), NtkByParts(2, 64), Llama3(2, 64), Yarn(2, 64)]
  for stretch in (Plain(), *ones):
    assert stretch.declared(999) is stretch
  for stretch in (DynamicNtk(2, 64, 64), LongRope(short, long, 64, 64, 2)):
    longer = stretch.declared(65)
    assert longer.length == 65 and longer.declared(64) == stretch
    assert (
      longer.frequencies(8, 1e4).theta[-1]
      < (stretch.frequencies(8, 1e4).theta[-1])
    )
    assert Rope(stretch=stretch).declared(65) == Rope(stretch=longer)


FOUR = (1.0,) * 4
REFUSED = {
  'factor = 0.5': lambda: Linear(0.5),
  'factor = nan': lambda: NtkAware(math.nan),
  'trained = 0': lambda: DynamicNtk(2, 0, 64),
  'length = 0': lambda: DynamicNtk(2, 64, 0),
  'slow = 32': lambda: NtkByParts(2, 64, slow=32, fast=32),
  'low = 0': lambda: Llama3(2, 64, low=0),
  'slow = 33': lambda: Yarn(2, 64, slow=33),
  'attention_factor = 0': lambda: Yarn(2, 64, attention_factor=0),
  'mscale = 1': lambda: Yarn(2, 64, mscale=1),
  'mscale = None': lambda: Yarn(2, 64, mscale_all_dim=1),
  'attention_factor = 2': lambda: Yarn(
    2, 64, attention_factor=2, mscale=1, mscale_all_dim=1
  ),
  'long holds 0': lambda: LongRope(FOUR, (1.0, 0.0, 1.0, 1.0), 64, 64, 2),
  'factor = None': lambda: LongRope(FOUR, FOUR, 64, 64),
  'factor = 2': lambda: LongRope(FOUR, FOUR, 64, 64, 2, 2),
}


@pytest.mark.parametrize('what', REFUSED)
def test_fields_that_cannot_be_are_refused_by_name(what):
  with pytest.raises(ValueError, match=FIELD + what):
    REFUSED[what]()


def test_widths_that_a_stretch_cannot_serve_are_refused():
  with pytest.raises(ValueError, match=FIELD + r'short has 4 .* 12 .* 6 pairs'):
    LongRope(FOUR, FOUR, 64, 64, 2).frequencies(12, 1e4)
  with pytest.raises(ValueError, match=FIELD + r'long has 3 .* 8 .* 4 pairs'):
    LongRope(FOUR, FOUR[:3], 64, 64, 2).frequencies(8, 1e4)
  for stretch in (NtkAware(2), DynamicNtk(2, 64, 128)):
    with pytest.raises(ValueError, match='rotates 2 channels'):
      stretch.frequencies(2, 1e4)
  for yarn, width, base in (
    (Yarn(2, 2), 128, 1e4),  # the fastest pair turns less than `slow` times
    (Yarn(2, 6, truncate=False), 8, 1e4),
    (Yarn(2, 10**6), 8, 2),  # the slowest one more than `fast` times
  ):
    with pytest.raises(ValueError, match=FIELD + f'trained = {yarn.trained}'):
      yarn.frequencies(width, base)


def test_a_command_switches_the_stretch():
  assert 'stretch' not in options_of(Stretch) and len(options_of(Stretch)) == 8
  changed = override(
    Rope(), {'stretch': 'yarn', 'stretch.factor': '8', 'stretch.trained': '64'}
  )
  assert changed == Rope(stretch=Yarn(8, 64))
  searched = override(
    changed,
    {
      'stretch': 'longrope',
      'stretch.short': '(1,2)',
      'stretch.long': '(3,4.5)',
      'stretch.trained': '64',
      'stretch.length': '128',
      'stretch.factor': '2',
    },
  )
  assert searched.stretch == LongRope((1, 2), (3, 4.5), 64, 128, 2)
  assert from_json(to_json(searched), Rope) == searched

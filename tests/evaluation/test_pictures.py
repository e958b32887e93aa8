"""Pictures: what is drawn where, read back from the figure."""

import dataclasses
import math

import numpy as np
import pytest

from lctx.evaluation import pictures as module
from lctx.evaluation.gain import Comparison, Estimate, Loss, Stretch
from lctx.evaluation.pictures import curve, pictures
from lctx.evaluation.report import Result
from lctx.evaluation.units import units

SEGMENT = 64


def stretch(first: int, documents: int = 9) -> Stretch:
  def loss(bits):
    return Loss(Estimate(bits, bits - 0.1, bits + 0.2), Estimate(bits))

  gain = 0.0 if first < SEGMENT else 0.25
  return Stretch(
    first=first,
    end=2 * first,
    documents=documents,
    tokens=100,
    num_bytes=100,
    own=loss(2 - gain),
    swap=loss(2.1),
    none=loss(2.0),
    gain=Estimate(gain, gain - 0.1, gain + 0.1),
    gain_over_swap=Estimate(gain + 0.1, gain, gain + 0.2),
  )


def result(*stretches: Stretch) -> Result:
  past = tuple(s for s in stretches if s.first >= SEGMENT)
  return Result(
    title='a test',
    units=units(1.0, 1, num_bytes=1, num_chars=1, num_words=1),
    comparison=Comparison(SEGMENT, stretch(SEGMENT), past, 2000),
    positions=stretches,
  )


@pytest.fixture
def axes(monkeypatch):
  """The axes of every picture, under the name of its file."""
  drawn, save = {}, module._save

  def keep(figure, path):
    drawn[path.name] = figure.axes[0]
    save(figure, path)

  monkeypatch.setattr(module, '_save', keep)
  return drawn


def line(axes, label: str) -> np.ndarray:
  (found,) = [x for x in axes.lines if x.get_label() == label]
  return found.get_xydata()


def test_losses_are_drawn_for_all_memories_at_the_middle_of_their_bins(
  axes, tmp_path
):
  found = pictures(result(*[stretch(2**k) for k in range(4, 9)]), tmp_path)
  assert [path.read_bytes()[1:4] for path in found] == [b'PNG'] * 2
  losses = axes['loss_by_distance.png']
  own = line(losses, 'own memory')
  np.testing.assert_allclose(own[:, 1], [2, 2, 1.75, 1.75, 1.75])
  np.testing.assert_allclose(own[0, 0], math.sqrt(17 * 32))
  none = line(losses, 'no memory')
  np.testing.assert_allclose(none[:, 1], 2)
  assert losses.get_xscale() == 'log'
  assert any((np.array(x.get_xdata()) == SEGMENT).all() for x in losses.lines)


def test_gains_are_drawn_past_the_first_segment_above_a_line_at_zero(
  axes, tmp_path
):
  pictures(result(*[stretch(2**k) for k in range(4, 9)]), tmp_path)
  gains = axes['gain_by_distance.png']
  gain = line(gains, 'against no memory')
  np.testing.assert_allclose(gain[:, 1], [0.25] * 3)
  assert gain[:, 0].min() > SEGMENT
  assert any((np.array(x.get_ydata()) == 0).all() for x in gains.lines)
  low, high = np.ptp(gains.collections[0].get_paths()[0].vertices, axis=0)
  assert high == pytest.approx(0.2) and low > 0


def test_bins_of_few_documents_are_left_out_if_others_have_enough(
  axes, tmp_path
):
  pictures(result(stretch(64), stretch(128, documents=2)), tmp_path)
  assert len(line(axes['loss_by_distance.png'], 'own memory')) == 1
  few = result(stretch(64, documents=2), stretch(128, documents=2))
  pictures(few, tmp_path)
  assert len(line(axes['loss_by_distance.png'], 'own memory')) == 2


def test_without_memory_only_the_loss_by_distance_is_drawn(axes, tmp_path):
  nothing = {
    'swap': None,
    'none': None,
    'gain': None,
    'gain_over_swap': None,
  }
  alone = [
    dataclasses.replace(stretch(first), **nothing) for first in (4, 16, 64)
  ]
  whole = dataclasses.replace(result(*alone), comparison=None)
  (path,) = pictures(whole, tmp_path)
  (drawn,) = axes[path.name].lines
  np.testing.assert_allclose(drawn.get_ydata(), [2, 1.75])


def test_a_text_too_short_for_a_picture_has_none(tmp_path):
  assert pictures(result(stretch(8)), tmp_path) == []


def test_a_curve_is_in_bits_and_skips_what_is_missing_or_not_finite(
  axes, tmp_path
):
  records = [
    {'step': 10, 'loss': 3 * math.log(2)},
    {'step': 20, 'loss': None},
    {'step': 30, 'loss': 2 * math.log(2), 'valid/bits_per_token': 2.5},
    {'step': 40, 'skipped': 1, 'valid/bits_per_token': None},
  ]
  curve(records, tmp_path / 'curve.png')
  drawn = axes['curve.png']
  np.testing.assert_allclose(line(drawn, 'training'), [[10, 3], [30, 2]])
  np.testing.assert_allclose(line(drawn, 'validation'), [[30, 2.5]])


def test_a_curve_without_records_is_an_empty_picture(tmp_path):
  curve([], tmp_path / 'curve.png')
  assert (tmp_path / 'curve.png').read_bytes()[1:4] == b'PNG'

"""What memory gains: known truths recovered, with intervals that hold."""

import math

import numpy as np
import pytest

from lctx.evaluation import tally as tally_module
from lctx.evaluation.gain import FEWEST, Estimate, by_position, compare
from lctx.evaluation.rows import Rows
from lctx.evaluation.tally import Tally, bin_edges

SEGMENT = 8


def one_row(document: int, length: int, weight=1.0) -> Rows:
  """A document in one row; only what a tally reads is there."""
  nothing = np.zeros((1, length), np.int32)
  return Rows(
    tokens=nothing,
    targets=nothing,
    document=nothing,
    weight=np.full((1, length), weight, np.float32),
    distance=np.arange(length, dtype=np.int32)[None],
    source=nothing + document,
    other=None,
    opens=True,
  )


def nats_of(length: int, own: float, swap: float, none: float):
  """Bits per token past the first segment; 3 within it."""
  past = np.arange(length)[None] >= SEGMENT
  bits = {'own': own, 'swap': swap, 'none': none}
  return {
    name: np.log(2) * np.where(past, value, 3.0) for name, value in bits.items()
  }


def filled(documents, bytes_per_token=1) -> Tally:
  """A tally of (number, length, own, swap, none)."""
  tally = Tally(SEGMENT)
  for number, length, *bits in documents:
    num_bytes = np.full((1, length), bytes_per_token)
    tally.add(one_row(number, length), num_bytes, nats_of(length, *bits))
  return tally


def some(number: int, seed: int = 0):
  random = np.random.default_rng(seed)
  for i in range(number):
    own = random.normal(2, 0.2)
    gain = random.normal(0.3, 0.1)
    yield i, int(random.integers(10, 200)), own, own + 2 * gain, own + gain


def test_losses_and_gains_are_ratios_of_sums_past_the_first_segment():
  tally = filled([(0, 10, 1.0, 2.0, 4.0), (1, 14, 2.0, 2.5, 3.0)], 2)
  past = compare(tally).past
  assert (past.documents, past.tokens, past.num_bytes) == (2, 8, 16)
  assert past.own.bits_per_token.value == pytest.approx((2 * 1 + 6 * 2) / 8)
  assert past.own.bits_per_byte.value == pytest.approx((2 * 1 + 6 * 2) / 16)
  assert past.gain.value == pytest.approx((2 * 3 + 6 * 1) / 16)
  assert past.gain_over_swap.value == pytest.approx((2 * 1 + 6 * 0.5) / 16)
  assert (past.first, past.end) == (8, 14)


def test_bins_divide_what_lies_past_the_first_segment():
  comparison = compare(filled(some(30)))
  past, bins = comparison.past, comparison.bins
  assert bins[0].first == SEGMENT and bins[-1].end == past.end
  assert [s.first for s in bins[1:]] == [s.end for s in bins[:-1]]
  assert sum(s.num_bytes for s in bins) == past.num_bytes
  mean = sum(s.gain.value * s.num_bytes for s in bins) / past.num_bytes
  assert mean == pytest.approx(past.gain.value)


def test_positions_begin_at_the_first_token_where_memory_is_alike():
  positions = by_position(filled(some(30)))
  before = [s for s in positions if s.end <= SEGMENT]
  assert positions[0].first == 0 and positions[0].tokens == 30
  assert before[-1].end == SEGMENT
  for stretch in before:
    assert stretch.own.bits_per_token.value == pytest.approx(3)
    assert stretch.gain.value == pytest.approx(0)
  after = [s for s in positions if s.first >= SEGMENT]
  for stretch, bin in zip(after, compare(filled(some(30))).bins, strict=True):
    assert (stretch.first, stretch.end) == (bin.first, bin.end)
    assert stretch.gain.value == pytest.approx(bin.gain.value)


@pytest.mark.parametrize('segment', [1, 2, 7, 8, 100, 512, 1 << 20])
def test_bins_meet_at_the_segment_and_widen_by_half_doublings(segment):
  edges = bin_edges(segment)
  assert edges[0] == 0 and segment in edges and len(edges) <= 64
  past = edges[edges >= max(segment, 16)]
  assert np.allclose(past[1:] / past[:-1], 2**0.5, rtol=0.05)
  assert past[-1] * 2**0.5 >= 2**30.9


def test_the_interval_covers_the_truth_about_95_times_in_100():
  true_gain, covered, rounds = 0.3, 0, 200
  for seed in range(rounds):
    gain = compare(filled(some(40, seed)), resamples=400).past.gain
    covered += gain.low <= true_gain <= gain.high
  assert 0.88 <= covered / rounds <= 0.99


def test_the_order_in_which_documents_come_does_not_matter():
  documents = list(some(20))
  there, back = filled(documents), filled(documents[::-1])
  assert same(compare(there).past.gain, compare(back).past.gain)


def test_a_document_in_pieces_counts_as_one():
  documents = list(some(12))
  whole, cut = filled(documents), Tally(SEGMENT)
  for number, length, *bits in documents:
    row, nats = one_row(number, length), nats_of(length, *bits)
    for part in np.array_split(np.arange(length), 3):
      piece = Rows(
        *(getattr(row, name)[:, part] for name in list(vars(row))[:6]),
        other=None,
        opens=bool(part[0] == 0),
      )
      few = {name: value[:, part] for name, value in nats.items()}
      cut.add(piece, np.ones(piece.weight.shape), few)
  assert compare(cut).past.documents == 12
  assert same(compare(cut).past.gain, compare(whole).past.gain)


def test_tokens_of_no_weight_leave_no_trace():
  tally = filled(some(10))
  before = compare(tally)
  nats = nats_of(500, math.nan, math.inf, 1.0)
  tally.add(one_row(99, 500, weight=0.0), np.ones((1, 500)), nats)
  assert compare(tally) == before


def test_few_documents_give_numbers_but_no_intervals_and_say_why():
  comparison = compare(filled([(0, 20, 1.0, 2.0, 3.0)]))
  assert comparison.past.gain == Estimate(pytest.approx(2.0), None, None)
  assert '1 of the documents' in comparison.note
  assert 'resampling' in comparison.note
  enough = compare(filled(some(FEWEST)))
  assert enough.past.gain.low < enough.past.gain.value < enough.past.gain.high
  assert enough.note == ''


def test_documents_within_the_first_segment_say_that_nothing_can_be_gained():
  comparison = compare(filled([(i, SEGMENT, 1.0, 2.0, 3.0) for i in range(9)]))
  assert comparison.past.gain == Estimate(None)
  assert comparison.past.tokens == 0 and comparison.bins == ()
  assert 'first segment of 8 tokens' in comparison.note


def test_tokens_without_bytes_have_bits_per_token_only():
  comparison = compare(filled(some(9), bytes_per_token=0))
  assert comparison.past.gain == Estimate(None)
  assert comparison.past.own.bits_per_token.low is not None
  assert 'no bytes' in comparison.note


def test_an_empty_tally_is_compared_without_an_exception():
  comparison = compare(Tally(SEGMENT))
  assert comparison.past.documents == 0 and comparison.past.none is None
  assert by_position(Tally(SEGMENT)) == ()


def test_conditions_that_were_not_measured_are_missing():
  tally = Tally(SEGMENT)
  own = {'own': nats_of(20, 1.0, 2.0, 3.0)['own']}
  tally.add(one_row(0, 20), np.ones((1, 20)), own)
  past = compare(tally).past
  assert past.swap is past.none is past.gain is past.gain_over_swap is None
  assert past.own.bits_per_byte.value == pytest.approx(1.0)


def test_a_condition_that_is_not_finite_spoils_its_own_numbers_only():
  documents = list(some(10))
  documents[3] = (*documents[3][:3], math.nan, documents[3][4])
  past, sound = compare(filled(documents)).past, compare(filled(some(10))).past
  assert math.isnan(past.swap.bits_per_byte.value)
  assert math.isnan(past.gain_over_swap.value)
  assert past.gain == sound.gain and past.own == sound.own


def test_more_documents_than_groups_keep_sums_counts_and_honest_widths(
  monkeypatch,
):
  exact = compare(filled(some(600)))
  monkeypatch.setattr(tally_module, '_GROUPS', 100)
  grouped = compare(filled(some(600)))
  assert grouped.past.documents == exact.past.documents == 600
  assert grouped.past.gain.value == pytest.approx(exact.past.gain.value)
  assert width(grouped.past.gain) == pytest.approx(
    width(exact.past.gain), rel=0.3
  )


def test_the_same_seed_gives_the_same_interval():
  tally = filled(some(10))
  assert compare(tally, seed=3) == compare(tally, seed=3)
  assert compare(tally, seed=3) != compare(tally, seed=4)


def width(estimate: Estimate) -> float:
  return estimate.high - estimate.low


def same(a: Estimate, b: Estimate) -> bool:
  return np.allclose(
    [a.value, a.low, a.high], [b.value, b.low, b.high], rtol=1e-9
  )

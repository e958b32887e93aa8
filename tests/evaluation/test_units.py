"""Units of a loss, against numbers worked out by hand."""

import math

import pytest

from lctx.evaluation.units import units


def test_guessing_uniformly_among_256_bytes_costs_8_bits_a_byte():
  got = units(10 * math.log(256), 10, num_bytes=10, num_chars=10, num_words=2)
  assert got.bits_per_byte == pytest.approx(8)
  assert got.bits_per_character == pytest.approx(8)
  assert got.bits_per_token == pytest.approx(8)
  assert got.token_perplexity == pytest.approx(256)


def test_each_unit_divides_the_same_loss_by_its_own_count():
  nats = 60 * math.log(2)
  got = units(nats, 20, num_bytes=60, num_chars=30, num_words=12)
  assert got.bits_per_byte == pytest.approx(1)
  assert got.bits_per_character == pytest.approx(2)
  assert got.bits_per_token == pytest.approx(3)
  assert got.token_perplexity == pytest.approx(2**3)
  assert got.word_perplexity == pytest.approx(2**5)
  assert (got.tokens, got.num_bytes) == (20, 60)
  assert (got.num_chars, got.num_words) == (30, 12)


def test_word_perplexity_does_not_care_how_words_were_cut_into_tokens():
  few = units(123.4, 50, num_bytes=300, num_chars=290, num_words=45)
  many = units(123.4, 300, num_bytes=300, num_chars=290, num_words=45)
  assert few.word_perplexity == many.word_perplexity
  assert few.word_perplexity == pytest.approx(math.exp(123.4 / 45))
  assert few.token_perplexity**50 == pytest.approx(many.token_perplexity**300)


def test_a_unit_whose_count_is_zero_is_missing_and_the_others_are_there():
  got = units(5.0, 10, num_bytes=0, num_chars=0, num_words=0)
  assert got.bits_per_byte is None
  assert got.bits_per_character is None
  assert got.word_perplexity is None
  assert got.token_perplexity == pytest.approx(math.exp(0.5))


def test_a_perplexity_too_large_for_a_float_is_infinite():
  got = units(1e6, 1, num_bytes=1, num_chars=1, num_words=1)
  assert got.token_perplexity == math.inf
  assert got.bits_per_byte == pytest.approx(1e6 / math.log(2))


def test_a_loss_that_is_not_a_number_is_not_a_number_in_any_unit():
  got = units(math.nan, 1, num_bytes=1, num_chars=1, num_words=1)
  assert math.isnan(got.bits_per_byte)
  assert math.isnan(got.word_perplexity)

"""Objectives hide nothing for good, draw what is published, pack in rows."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from lctx.data.objectives import (
  Bart,
  Causal,
  FillInMiddle,
  GapSentences,
  Infill,
  MaskedLM,
  Pair,
  PrefixLM,
  SpanCorruption,
  Text,
  as_prefix,
  packed,
  packed_pairs,
  spans_lengths,
)
from lctx.data.objectives.base import next_tokens
from lctx.data.objectives.denoising import poisson_spans, rouge_1
from lctx.data.objectives.spans import noise_mask
from lctx.types import EMPTY, PREFIX

VOCAB = 50
LENGTHS = (2, 3, 4, 5, 7, 16, 33, 100, 257)


def texts(seeds=6):
  """Texts of many lengths, some of one token only, each with a seed."""
  for length, seed in itertools.product(LENGTHS, range(seeds)):
    rng = np.random.default_rng((length, seed))
    yield rng.integers(0, VOCAB, length), seed
    yield np.full(length, 7), seed


def sentences(tokens, seed):
  """Ends of sentences at random; the last token need not be one."""
  return np.random.default_rng((seed, 1)).random(len(tokens)) < 0.3


def split(tokens, ends):
  parts = np.split(tokens, np.flatnonzero(ends) + 1)
  return [list(part) for part in parts if len(part)]


def row(text):
  """All that a text of next tokens says: what it reads, and its last target."""
  return [*text.tokens.tolist(), int(text.targets[-1])]


def near(count, total, share):
  """Whether a count of independent draws is within 5 standard deviations."""
  return abs(count - total * share) <= 5 * (total * share * (1 - share)) ** 0.5


def is_subsequence(few, many):
  rest = iter(many)
  return all(token in rest for token in few)


# What all of them promise.

ALL = {
  'causal': (Causal(), {}),
  'prefix': (PrefixLM(), {}),
  'masked': (MaskedLM(), {}),
  'whole words': (MaskedLM(whole_words=True), {'begins': sentences}),
  'spans': (SpanCorruption(), {}),
  'bart': (Bart(), {'ends': sentences}),
  'all of bart': (Bart(delete=0.2, rotate=True), {'ends': sentences}),
  'gaps': (GapSentences(how='random'), {'ends': sentences}),
  'middle': (FillInMiddle(), {}),
}


@pytest.fixture(params=ALL)
def every(request):
  """An objective as a function of tokens and a seed, and itself."""
  objective, flags = ALL[request.param]

  def call(tokens, seed):
    given = {name: make(tokens, 0) for name, make in flags.items()}
    return objective(tokens, seed, VOCAB, **given)

  return call, objective


def arrays(result):
  if isinstance(result, Pair):
    return [result.source, *result.target]
  return list(result)


def test_a_seed_decides_all_and_the_text_stays_as_it_is(every):
  call, _ = every
  for tokens, seed in texts(2):
    tokens = tokens.astype(np.int32)  # that no conversion copies it
    before = tokens.copy()
    first, again = call(tokens, (seed, 3)), call(tokens, (seed, 3))
    np.testing.assert_array_equal(tokens, before)
    assert not any(np.shares_memory(tokens, array) for array in arrays(first))
    for one, other in zip(arrays(first), arrays(again), strict=True):
      np.testing.assert_array_equal(one, other)


def test_other_seeds_give_other_results(every):
  call, objective = every
  tokens = np.random.default_rng(0).integers(0, VOCAB, 100)
  results = {str(arrays(call(tokens, seed))) for seed in range(8)}
  least = {Causal: 1, FillInMiddle: 3}  # plain texts of both are the same
  assert len(results) >= least.get(type(objective), 7)


def test_results_are_aligned_and_of_the_promised_kinds(every):
  call, objective = every
  for tokens, seed in texts(2):
    result = call(tokens, seed)
    assert isinstance(result, Pair if objective.pairs else Text)
    text = result.target if objective.pairs else result
    assert {len(array) for array in text} == {len(text.tokens)}
    assert text.weight.dtype == np.float32 and text.weight.any()
    others = [a for a in arrays(result) if a is not text.weight]
    assert {array.dtype for array in others} == {np.dtype(np.int32)}
    size = VOCAB + objective.extra(VOCAB)
    assert max(a.max() for a in arrays(result)) < size
    if objective.pairs:  # the decoder reads what it predicted
      np.testing.assert_array_equal(text.tokens[1:], text.targets[:-1])
      assert text.tokens[0] == objective.with_ids(VOCAB).start
      assert text.weight.all() and not text.role.any()


def test_texts_that_are_none_are_told(every):
  call, objective = every
  for wrong in ([], [0.5, 1.0], [[1, 2], [3, 4]]):
    with pytest.raises(ValueError, match='cannot be used'):
      objective(np.array(wrong), 0, VOCAB)
  for wrong in ([3, VOCAB], [-1, 3]):
    with pytest.raises(ValueError, match='tokenizer'):
      call(np.array(wrong), 0)


# Next tokens.


def test_causal_predicts_each_next_token():
  for tokens, seed in texts():
    text = Causal()(tokens, seed, VOCAB)
    np.testing.assert_array_equal(text.tokens, tokens[:-1])
    np.testing.assert_array_equal(text.targets, tokens[1:])
    assert text.weight.all() and not text.role.any()


def test_a_prefix_is_seen_both_ways_and_the_rest_is_predicted():
  for tokens, seed in texts():
    text = PrefixLM()(tokens, seed, VOCAB)
    prefix = int((text.role == PREFIX).sum())
    assert 1 <= prefix <= len(tokens) - 1
    assert (text.role[:prefix] == PREFIX).all() and not text.role[prefix:].any()
    weighted = text.targets[text.weight == 1]
    np.testing.assert_array_equal(
      np.concatenate([text.tokens[:prefix], weighted]), tokens
    )
    assert not text.weight[: prefix - 1].any()


def test_prefixes_are_of_all_lengths_alike():
  draws = 3000
  lengths = collections.Counter(
    int((PrefixLM()(np.arange(9), seed, VOCAB).role == PREFIX).sum())
    for seed in range(draws)
  )
  assert set(lengths) == set(range(1, 9))
  assert all(near(count, draws, 1 / 8) for count in lengths.values())


# Masked tokens.


def test_masked_places_and_their_targets_are_the_text():
  for tokens, seed in texts():
    for rate in (0.01, 0.15, 0.5, 1.0):
      text = MaskedLM(rate=rate)(tokens, seed, VOCAB)
      np.testing.assert_array_equal(text.targets, tokens)
      chosen = text.weight == 1
      assert chosen.sum() == max(1, round(rate * len(tokens)))
      np.testing.assert_array_equal(text.tokens[~chosen], tokens[~chosen])
      np.testing.assert_array_equal(
        np.where(chosen, text.targets, text.tokens), tokens
      )


def test_of_the_chosen_80_percent_are_masks_10_random_10_as_they_were():
  tokens, mask = np.full(20_000, 3), 9
  objective = MaskedLM(rate=0.5, mask=mask, kept=(0, 1))
  text = objective(tokens, 0, VOCAB)
  hidden = text.tokens[text.weight == 1]
  assert near((hidden == mask).sum(), 10_000, 0.8)
  free = VOCAB - 3  # a random token is neither mask nor kept, but may be a 3
  drawn = hidden[(hidden != mask) & (hidden != 3)]
  assert near(len(drawn), 10_000, 0.1 * (free - 1) / free)
  seen = collections.Counter(drawn.tolist())
  assert set(seen) == set(range(VOCAB)) - {0, 1, 3, mask}
  assert all(near(n, len(drawn), 1 / (free - 1)) for n in seen.values())


def test_a_random_token_is_never_the_mask():
  objective = MaskedLM(rate=1.0, masked=0.0, random=1.0, mask=9)
  text = objective(np.full(2000, 3), 0, VOCAB)
  assert set(text.tokens.tolist()) == set(range(VOCAB)) - {9}


def test_every_token_is_chosen_alike():
  draws, chosen = 2000, np.zeros(20)
  for seed in range(draws):
    chosen += MaskedLM()(np.arange(20), seed, VOCAB).weight
  assert all(near(count, draws, 0.15) for count in chosen)


def test_kept_marks_are_never_chosen():
  for tokens, seed in texts():
    tokens[0] = 1
    if (tokens == 7).any():
      text = MaskedLM(rate=1.0, kept=(1, 2))(tokens, seed, VOCAB)
      kept = np.isin(tokens, (1, 2))
      np.testing.assert_array_equal(text.weight == 0, kept)
  with pytest.raises(ValueError, match='keeps every token'):
    MaskedLM(kept=(1, 2))(np.array([1, 2, 1]), 0, VOCAB)


def test_whole_words_are_chosen_whole_until_no_other_fits():
  objective = MaskedLM(rate=0.3, whole_words=True, kept=(0,))
  for tokens, seed in texts():
    tokens[-1] = 7  # is not kept
    begins = sentences(tokens, seed)
    text = objective(tokens, seed, VOCAB, begins=begins)
    chosen, kept = text.weight == 1, tokens == 0
    numbers = np.cumsum(begins)
    words = [np.flatnonzero((numbers == n) & ~kept) for n in set(numbers)]
    words = [word for word in words if len(word)]
    assert all(chosen[word].all() or not chosen[word].any() for word in words)
    assert not chosen[kept].any()
    whole = [len(word) for word in words if chosen[word].any()]
    left = min(max(1, round(0.3 * len(tokens))), (~kept).sum()) - sum(whole)
    others = [len(word) for word in words if not chosen[word].any()]
    # Either no other word fits, or none fitted at all and one is taken.
    assert left >= 0 or len(whole) == 1
    assert all(size > left for size in others)


def test_words_of_one_token_are_chosen_as_many_as_tokens():
  for tokens, seed in texts():
    begins = np.ones(len(tokens), bool)
    text = MaskedLM(whole_words=True)(tokens, seed, VOCAB, begins=begins)
    assert text.weight.sum() == max(1, round(0.15 * len(tokens)))


# Spans.


def expanded(source, target, its, spans):
  """The text: each sentinel of the source by what the target says of it."""
  sentinels = {its.first_sentinel - k: k for k in range(spans + 1)}
  says, text = collections.defaultdict(list), []
  for token in target:
    if token in sentinels:
      last = sentinels[token]
    else:
      says[last].append(token)
  for token in source:
    text += says[sentinels[token]] if token in sentinels else [token]
  return text


@pytest.mark.parametrize('density, mean', [(0.15, 3), (0.5, 3), (0.5, 1)])
def test_source_and_target_of_spans_are_the_text(density, mean):
  objective = SpanCorruption(density, mean, sentinels=150)
  its = objective.with_ids(VOCAB)
  for tokens, seed in texts():
    source, target = objective(tokens, seed, VOCAB)
    noise = min(max(round(density * len(tokens)), 1), len(tokens) - 1)
    spans = min(max(round(noise / mean), 1), len(tokens) - noise)
    assert source[-1] == target.targets[-1] == its.end
    assert len(source) == len(tokens) - noise + spans + 1
    assert len(target.targets) == noise + spans + 1
    source, target = source[:-1].tolist(), target.targets[:-1].tolist()
    assert expanded(source, target, its, spans) == tokens.tolist()
    down = [its.first_sentinel - k for k in range(spans)]
    assert [t for t in source if t >= VOCAB] == down
    assert [t for t in target if t >= VOCAB] == down
    # The text begins clean and ends noisy.
    assert source[0] < VOCAB and source[-1] == down[-1]
    assert target[0] == down[0] and target[-1] < VOCAB


def test_masks_of_noise_are_equally_likely():
  draws = 2000
  masks = collections.Counter(
    ''.join('.#'[i] for i in noise_mask(7, 3 / 7, 1.5, rng).astype(int))
    for rng in map(np.random.default_rng, range(draws))
  )  # 3 tokens of noise in 2 spans: 2 ways to part them, 3 ways to part 4
  assert set(masks) == {
    '.#...##',
    '.##...#',
    '..#..##',
    '..##..#',
    '...#.##',
    '...##.#',
  }
  assert all(near(count, draws, 1 / 6) for count in masks.values())


def test_all_tokens_but_the_first_are_noise_at_times():
  draws = 400
  total = sum(
    noise_mask(100, 0.15, 3, rng)
    for rng in map(np.random.default_rng, range(draws))
  )
  assert total.sum() == 15 * draws
  assert total[0] == 0 and total[-1] == draws and total[1:].min() > 0


def test_ids_of_t5_go_down_from_32099():
  tokens = np.arange(2, 14)
  objective = SpanCorruption(0.5, 3, first_sentinel=32099, start=0, end=1)
  source, target = objective(tokens, 5, 32100)
  assert objective.extra(32100) == 0 and objective.extra(32000) == 100
  assert [t for t in source if t > 100] == [32099, 32098]
  assert target.tokens[:2].tolist() == [0, 32099]
  assert source[-1] == target.targets[-1] == 1


def test_a_final_sentinel_ends_the_target():
  objective = SpanCorruption(final_sentinel=True, sentinels=40)
  plain = dataclasses.replace(objective, final_sentinel=False)
  its = objective.with_ids(VOCAB)
  for tokens, seed in texts():
    source, target = objective(tokens, seed, VOCAB)
    other = plain(tokens, seed, VOCAB)
    np.testing.assert_array_equal(source, other.source)
    assert target.targets[:-2].tolist() == other.target.targets[:-1].tolist()
    last = [t for t in source[:-1] if t >= VOCAB][-1]
    assert target.targets[-2:].tolist() == [last - 1, its.end]


def test_a_text_with_more_spans_than_sentinels_is_told():
  tokens = np.arange(40)  # 6 tokens of noise, 2 spans
  SpanCorruption(sentinels=2)(tokens, 0, VOCAB)
  for few in (
    SpanCorruption(sentinels=1),
    SpanCorruption(sentinels=2, final_sentinel=True),
  ):
    with pytest.raises(ValueError, match='has 2 spans and needs'):
      few(tokens, 0, VOCAB)


@pytest.mark.parametrize(
  'inputs_length, tokens, targets',
  [
    (512, 568, 114),
    (1024, 1137, 229),
    (2048, 2274, 456),
    (4096, 4550, 910),
    (16384, 18204, 3642),
  ],
)
def test_lengths_are_those_of_t5(inputs_length, tokens, targets):
  assert spans_lengths(inputs_length) == (tokens, targets)


@pytest.mark.parametrize('density, mean', [(0.15, 3), (0.5, 3), (0.5, 1)])
@pytest.mark.parametrize('final', [False, True])
def test_the_longest_text_fills_the_source(density, mean, final):
  objective = SpanCorruption(density, mean, 200, final_sentinel=final)
  for limit in range(3, 60):
    lengths = spans_lengths(limit, density, mean, final_sentinel=final)
    source, target = objective(np.zeros(lengths.tokens, int), 0, VOCAB)
    longer, _ = objective(np.zeros(lengths.tokens + 1, int), 0, VOCAB)
    assert len(source) <= limit < len(longer)
    assert len(target.tokens) == lengths.targets


# Denoising.

PLAIN = Bart(infill=None, permute=False)


def damaged(objective, tokens, seed, ends=None):
  """What is between <begin> and <end>, when the target is known to be whole."""
  its = objective.with_ids(VOCAB)
  source, target = objective(tokens, seed, VOCAB, ends=ends)
  assert row(target) == [its.start, its.begin, *tokens, its.end]
  assert source[0] == its.begin and source[-1] == its.end
  return source[1:-1].tolist(), its.mask


def test_bart_without_damage_reads_the_text():
  for tokens, seed in texts():
    assert damaged(PLAIN, tokens, seed)[0] == tokens.tolist()


def test_infilling_leaves_the_text_with_masks_for_spans():
  objective = dataclasses.replace(PLAIN, infill=Infill())
  for tokens, seed in texts():
    source, mask = damaged(objective, tokens, seed)
    rest = [token for token in source if token != mask]
    assert is_subsequence(rest, tokens)
    assert len(rest) == len(tokens) - max(1, round(0.3 * len(tokens)))
    assert mask in source


def test_masks_stand_where_their_spans_stood():
  objective, sizes = dataclasses.replace(PLAIN, infill=Infill()), []
  for seed in range(200):
    source, mask = damaged(objective, np.arange(40), seed)
    source = [-1, *source, 40]
    for left, right in itertools.pairwise(source):
      assert mask in (left, right) or right == left + 1
    for left, middle, right in zip(source, source[1:], source[2:]):
      if middle == mask and mask not in (left, right):
        sizes.append(right - left - 1)
  assert set(sizes) >= set(range(7))  # 0: a mask that stands for nothing


def test_spans_are_poisson_and_together_exact():
  rng = np.random.default_rng(0)
  total = 30_000
  spans = poisson_spans(total, 3.0, rng)
  assert spans.sum() == total
  assert near(len(spans), total, 1 / 3)  # the mean is 3
  for length, share in ((0, 0.0498), (1, 0.1494), (3, 0.2240), (6, 0.0504)):
    assert near((spans == length).sum(), len(spans), share)
  for total, mean in itertools.product((1, 2, 5, 30), (1.0, 3.0, 50.0)):
    spans = poisson_spans(total, mean, rng)
    assert spans.sum() == total and spans.min() >= 0


def test_spans_of_any_length_are_in_any_order():
  rng, first, last = np.random.default_rng(0), 0, 0
  for _ in range(2000):
    spans = poisson_spans(8, 2.0, rng)
    first += spans[0] == 0
    last += spans[-1] == 0  # the last that is drawn never is
  assert near(first, first + last, 1 / 2)


def test_a_span_is_at_any_place_alike():
  objective = dataclasses.replace(PLAIN, infill=Infill(rate=0.3, mean=50.0))
  draws, places = 1500, collections.Counter()
  for seed in range(draws):
    source, mask = damaged(objective, np.arange(10), seed)
    places[source.index(mask)] += 1
    assert len(source) == 8  # a single span, cut to 3 tokens
  assert all(near(places[place], draws, 1 / 8) for place in range(8))


def test_permuted_sentences_are_the_same_sentences():
  objective = dataclasses.replace(PLAIN, permute=True)
  for tokens, seed in texts():
    ends = sentences(tokens, seed)
    source, _ = damaged(objective, tokens, seed, ends)
    parts = split(tokens, ends)
    assert sorted(source) == sorted(tokens)
    if len(parts) <= 4:
      orders = itertools.permutations(parts)
      assert source in [list(itertools.chain(*order)) for order in orders]


def test_all_orders_of_sentences_are_equally_likely():
  objective = dataclasses.replace(PLAIN, permute=True)
  tokens, ends = np.arange(6), np.array([1, 0, 0, 1, 0, 0], bool)
  draws, orders = 1800, collections.Counter()
  for seed in range(draws):
    orders[tuple(damaged(objective, tokens, seed, ends)[0])] += 1
  parts = [(0,), (1, 2, 3), (4, 5)]
  assert set(orders) == {sum(p, ()) for p in itertools.permutations(parts)}
  assert all(near(count, draws, 1 / 6) for count in orders.values())


def test_deleted_tokens_are_a_share_and_never_all():
  for rate in (0.01, 0.2, 1.0):
    objective = dataclasses.replace(PLAIN, delete=rate)
    for tokens, seed in texts():
      source, _ = damaged(objective, tokens, seed)
      count = min(max(1, round(rate * len(tokens))), len(tokens) - 1)
      assert len(source) == len(tokens) - count
      assert is_subsequence(source, tokens)


def test_a_turned_text_begins_at_any_token():
  objective = dataclasses.replace(PLAIN, rotate=True)
  for tokens, seed in texts():
    source, _ = damaged(objective, tokens, seed)
    turns = [np.roll(tokens, k).tolist() for k in range(len(tokens))]
    assert source in turns
  draws = 1000
  firsts = collections.Counter(
    damaged(objective, np.arange(5), seed)[0][0] for seed in range(draws)
  )
  assert all(near(firsts[token], draws, 1 / 5) for token in range(5))


def test_all_damage_together_leaves_tokens_of_the_text():
  objective = Bart(delete=0.2, rotate=True)
  for tokens, seed in texts():
    ends = sentences(tokens, seed)
    source, mask = damaged(objective, tokens, seed, ends)
    left = collections.Counter(token for token in source if token != mask)
    assert left <= collections.Counter(tokens.tolist()) and mask in source


def test_published_marks_of_bart_are_within_its_vocabulary():
  objective = Bart(permute=False, mask=50264, start=2, begin=0, end=2)
  source, target = objective(np.arange(4, 40), 0, 50265)
  assert objective.extra(50265) == 0
  assert (source[0], source[-1]) == (0, 2)
  assert target.tokens[:2].tolist() == [2, 0] and target.targets[-1] == 2


# Gap sentences.


def filled(source, target, mask, parts):
  """The text: the sentences of the target put back where masks are."""
  rest, text = list(target), []
  for token in source:
    if token != mask:
      text.append(token)
      continue
    size = next(len(p) for p in parts[len_of(text, parts) :])
    text += rest[:size]
    rest = rest[size:]
  assert not rest
  return text


def len_of(text, parts):
  """How many sentences the tokens so far are."""
  sums = np.cumsum([len(part) for part in parts])
  return int(np.searchsorted(sums, len(text), 'right'))


@pytest.mark.parametrize('how', ['random', 'first', 'principal'])
def test_sentences_of_the_target_fill_the_gaps(how):
  for (tokens, seed), ratio in itertools.product(texts(3), (0.05, 0.3, 1.0)):
    objective = GapSentences(ratio, how)
    its = objective.with_ids(VOCAB)
    ends = sentences(tokens, seed)
    parts = split(tokens, ends)
    source, target = objective(tokens, seed, VOCAB, ends=ends)
    assert source[-1] == target.targets[-1] == its.end
    source, target = source[:-1].tolist(), target.targets[:-1].tolist()
    assert source.count(its.mask) == max(1, round(ratio * len(parts)))
    assert filled(source, target, its.mask, parts) == tokens.tolist()


def test_first_sentences_are_the_first():
  tokens, ends = np.arange(20), np.arange(20) % 4 == 3
  _, target = GapSentences(0.4, 'first')(tokens, 0, VOCAB, ends=ends)
  assert target.targets[:-1].tolist() == list(range(8))


def test_principal_sentences_share_most_with_the_rest():
  for tokens, seed in texts(3):
    parts = split(tokens, sentences(tokens, seed))
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    for part, score in zip(parts, rouge_1(tokens, numbers), strict=True):
      own = collections.Counter(part)
      other = collections.Counter(tokens.tolist()) - own
      shared = (own & other).total()
      precision, recall = shared / len(part), shared / max(other.total(), 1)
      f = 2 * precision * recall / max(precision + recall, 1e-9)
      assert score == pytest.approx(f)
  tokens = np.array([1, 8, 3, 4, 4, 5, 1, 2, 4, 6, 7, 4])
  ends = np.arange(12) % 3 == 2
  _, target = GapSentences(0.5)(tokens, 0, VOCAB, ends=ends)
  assert target.targets[:-1].tolist() == [4, 4, 5, 1, 2, 4]


def test_random_sentences_are_chosen_alike():
  tokens, ends = np.arange(10), np.ones(10, bool)
  draws, chosen = 1500, np.zeros(10)
  for seed in range(draws):
    pair = GapSentences(0.3, 'random')(tokens, seed, VOCAB, ends=ends)
    chosen[pair.target.targets[:-1]] += 1
  assert all(near(count, draws, 0.3) for count in chosen)


# A middle.


def reassembled(tokens, its):
  """Prefix, middle and suffix in order, whichever was laid out first."""
  assert tokens[0] == its.prefix and tokens[-1] == its.end
  after_suffix = tokens[tokens.index(its.suffix) + 1 :]
  at = after_suffix.index(its.middle)
  suffix, last = after_suffix[:at], after_suffix[at + 1 : -1]
  return tokens[1 : tokens.index(its.suffix)] + last + suffix


def test_a_text_cut_in_three_is_the_text_in_another_order():
  objective = FillInMiddle(rate=1.0)
  its = objective.with_ids(VOCAB)
  for tokens, seed in texts():
    text = objective(tokens, seed, VOCAB)
    assert len(text.tokens) == len(tokens) + 3
    assert text.weight.all() and not text.role.any()
    np.testing.assert_array_equal(text.tokens[1:], text.targets[:-1])
    assert reassembled(row(text), its) == tokens.tolist()


def test_shares_of_texts_are_cut_and_turned_suffix_first():
  objective, draws = FillInMiddle(rate=0.6, spm_rate=0.25), 2000
  its, plain, prefix_first = objective.with_ids(VOCAB), 0, 0
  for seed in range(draws):
    text = row(objective(np.arange(50), seed, VOCAB))
    plain += text == list(range(50))
    prefix_first += text[0] == its.prefix and text[1] != its.suffix
  assert near(plain, draws, 0.4)
  some = (50 / 51) ** 2  # of the prefixes have a token that shows the layout
  assert near(prefix_first, draws, 0.6 * 0.75 * some)


def test_the_two_layouts_are_those_of_the_paper():
  tokens, marks = np.arange(9), {'prefix': 20, 'suffix': 21, 'middle': 22}
  first = FillInMiddle(1.0, 0.0, **marks, end=23)
  last = FillInMiddle(1.0, 1.0, **marks, end=23)
  for seed in range(50):
    one = row(first(tokens, seed, VOCAB))
    at = [one.index(mark) for mark in (20, 21, 22, 23)]
    prefix, suffix, middle = (one[i + 1 : j] for i, j in itertools.pairwise(at))
    assert prefix + middle + suffix == list(range(9))
    other = row(last(tokens, seed, VOCAB))
    assert other == [20, 21, *suffix, 22, *prefix, *middle, 23]


def test_both_cuts_are_at_any_place_alike():
  tokens, draws = np.arange(4), 3000
  objective, lengths = FillInMiddle(1.0, 0.0), collections.Counter()
  its = objective.with_ids(VOCAB)
  for seed in range(draws):
    text = row(objective(tokens, seed, VOCAB))
    cuts = text.index(its.suffix) - 1, text.index(its.middle)
    lengths[cuts[0], cuts[1] - cuts[0] - 2] += 1
  for prefix, suffix in itertools.product(range(5), range(5)):
    share = 0 if prefix + suffix > 4 else 2 / 25
    share = 1 / 25 if prefix + suffix == 4 else share  # both cuts at one place
    assert near(lengths[prefix, suffix], draws, share)


# A pair for a decoder alone.


def test_a_pair_as_one_text_reads_the_source_both_ways():
  for tokens, seed in texts():
    pair = SpanCorruption()(tokens, seed, VOCAB)
    text, size = as_prefix(pair), len(pair.source)
    both = np.concatenate([pair.source, pair.target.tokens])
    np.testing.assert_array_equal(text.tokens, both)
    np.testing.assert_array_equal(text.targets[:-1], both[1:])
    np.testing.assert_array_equal(text.targets[size:], pair.target.targets)
    np.testing.assert_array_equal(text.weight, np.arange(len(both)) >= size)
    np.testing.assert_array_equal(
      text.role, np.where(np.arange(len(both)) < size, PREFIX, 0)
    )


# Ids of marks.


def test_new_ids_follow_the_vocabulary_and_the_given_ids():
  assert MaskedLM().with_ids(VOCAB).mask == VOCAB
  assert MaskedLM().extra(VOCAB) == 1 and Causal().extra(VOCAB) == 0
  assert MaskedLM(mask=3).extra(VOCAB) == 0
  its = SpanCorruption().with_ids(VOCAB)
  assert (its.start, its.end, its.first_sentinel) == (50, 51, 151)
  assert SpanCorruption().extra(VOCAB) == 102
  its = Bart(start=2, mask=53).with_ids(VOCAB)
  assert (its.mask, its.start, its.begin, its.end) == (53, 2, 54, 55)
  assert Bart(start=2, mask=53).extra(VOCAB) == 6
  its = FillInMiddle().with_ids(VOCAB)
  assert (its.prefix, its.suffix, its.middle, its.end) == (50, 51, 52, 53)
  its = GapSentences().with_ids(VOCAB)
  assert (its.mask, its.start, its.end) == (50, 51, 52)


@pytest.mark.parametrize(
  'make, part',
  [
    (lambda: MaskedLM(rate=0.0), 'above 0'),
    (lambda: MaskedLM(rate=float('nan')), 'above 0'),
    (lambda: MaskedLM(masked=0.9, random=0.2), 'together'),
    (lambda: MaskedLM(mask=-1), 'below 0'),
    (lambda: SpanCorruption(density=1.0), 'density'),
    (lambda: SpanCorruption(mean=0.5), 'mean'),
    (lambda: SpanCorruption(sentinels=0), 'sentinel for each'),
    (lambda: SpanCorruption(first_sentinel=98), 'at least 99'),
    (lambda: SpanCorruption(first_sentinel=150, end=51), 'another id'),
    (lambda: spans_lengths(2), 'too short'),
    (lambda: spans_lengths(512, 1.0), 'density'),
    (lambda: Infill(rate=1.5), 'at most 1'),
    (lambda: Infill(mean=0.0), 'at least 1'),
    (lambda: Bart(delete=-0.1), 'at least 0'),
    (lambda: Bart(mask=2, end=2), 'one id'),
    (lambda: Bart(mask=2, start=2), 'one id'),
    (lambda: GapSentences(ratio=0.0), 'above 0'),
    (lambda: GapSentences(how='best'), "'random', 'first', 'principal'"),
    (lambda: GapSentences(mask=1, end=1), 'one id'),
    (lambda: FillInMiddle(rate=2.0), 'at most 1'),
    (lambda: FillInMiddle(prefix=1, middle=1), 'one id'),
  ],
)
def test_what_cannot_be_is_told_when_it_is_made(make, part):
  with pytest.raises(ValueError, match=part):
    make()


def test_missing_or_misplaced_flags_are_told():
  tokens, few = np.arange(5), np.ones(4, bool)
  with pytest.raises(ValueError, match=r'needs `begins`.*got none'):
    MaskedLM(whole_words=True)(tokens, 0, VOCAB)
  with pytest.raises(ValueError, match=r'needs `begins`.*got shape'):
    MaskedLM(whole_words=True)(tokens, 0, VOCAB, begins=few)
  with pytest.raises(ValueError, match=r'or permute=False.*got none'):
    Bart()(tokens, 0, VOCAB)
  with pytest.raises(ValueError, match=r'needs `ends`.*got shape'):
    GapSentences()(tokens, 0, VOCAB, ends=few)


@pytest.mark.parametrize(
  'objective', [Causal(), PrefixLM(), SpanCorruption(), FillInMiddle()]
)
def test_a_text_of_one_token_is_told_where_there_is_nothing_to_predict(
  objective,
):
  with pytest.raises(ValueError, match='at least 2'):
    objective(np.array([3]), 0, VOCAB)


# Packing.


def some_texts(seed, most=20):
  """Texts that differ in all their fields."""
  rng = np.random.default_rng(seed)
  for size in rng.integers(1, most + 1, 60):
    yield Text(
      tokens=rng.integers(0, VOCAB, size, dtype=np.int32),
      targets=rng.integers(0, VOCAB, size, dtype=np.int32),
      weight=rng.choice([0, 0.5, 1], size).astype(np.float32),
      role=rng.choice([0, PREFIX], size).astype(np.int32),
    )


def unpacked(rows):
  """The documents of each row, each as its arrays."""
  *fields, document = rows
  for index, numbers in enumerate(document):
    inside = numbers != EMPTY
    assert not (np.diff(inside.astype(int)) > 0).any()  # padding is behind
    assert (np.diff(numbers[inside]) >= 0).all()
    found = [
      [field[index][numbers == number] for field in fields]
      for number in range(numbers.max() + 1)
    ]
    assert all(len(arrays[0]) for arrays in found)  # no number is left out
    yield found


def key(arrays):
  return str([np.asarray(array).tolist() for array in arrays])


@pytest.mark.parametrize('length', [20, 21, 50])
def test_unpacked_rows_are_the_texts_each_in_the_first_row_with_room(length):
  for seed in range(5):
    given = list(some_texts(seed))
    rows = packed(given, length)
    assert {array.shape[1] for array in rows} == {length}
    assert rows.weight.dtype == np.float32 and rows.tokens.dtype == np.int32
    found = [[key(arrays) for arrays in row] for row in unpacked(rows)]
    expected, room = [], []  # first fit, one text after the other
    for text in given:
      size = len(text.tokens)
      place = next((i for i, r in enumerate(room) if r >= size), len(room))
      if place == len(room):
        room.append(length)
        expected.append([])
      room[place] -= size
      expected[place].append(key(text))
    assert found == expected


def test_padding_has_no_document_and_no_weight():
  rows = packed([next_tokens(np.arange(4)), next_tokens(np.arange(3))], 8)
  assert rows.document.tolist() == [[0, 0, 0, 1, 1, -1, -1, -1]]
  assert rows.tokens.tolist() == [[0, 1, 2, 0, 1, 0, 0, 0]]
  assert rows.targets.tolist() == [[1, 2, 3, 1, 2, 0, 0, 0]]
  assert rows.weight.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
  assert not rows.role.any()


def test_a_pair_has_one_number_in_source_and_target():
  given = [SpanCorruption()(t, s, VOCAB) for t, s in texts(3) if len(t) < 101]
  rows = packed_pairs(given, 120, 40)
  assert rows.source.tokens.shape == (len(rows.target.tokens), 120)
  assert rows.target.tokens.shape[1] == 40
  found = []
  for sources, targets in zip(
    unpacked(rows.source), unpacked(rows.target), strict=True
  ):
    found += [
      key(source + target)
      for source, target in zip(sources, targets, strict=True)
    ]
  wanted = [key([pair.source, *pair.target]) for pair in given]
  assert sorted(found) == sorted(wanted)


def test_either_text_of_a_pair_may_fill_a_row():
  short, long = next_tokens(np.arange(3)), next_tokens(np.arange(9))
  few, many = np.arange(2, dtype=np.int32), np.arange(8, dtype=np.int32)
  given = [Pair(many, short), Pair(few, long), Pair(few, short)]
  rows = packed_pairs(given, 10, 8)
  assert rows.source.document.max(axis=1).tolist() == [1, 0]
  assert rows.target.document.max(axis=1).tolist() == [1, 0]


def test_no_texts_are_no_rows():
  assert packed([], 8).tokens.shape == (0, 8)
  assert packed_pairs([], 8, 4).target.document.shape == (0, 4)


def test_a_text_longer_than_a_row_is_told():
  text = next_tokens(np.arange(10))
  pair = Pair(np.arange(9), text)
  assert len(packed([text], 9).tokens) == 1
  with pytest.raises(ValueError, match=r'text 1 is 9 .*length=8, and no text'):
    packed([next_tokens(np.arange(3)), text], 8)
  with pytest.raises(ValueError, match='source_length=8'):
    packed_pairs([pair], 8, 20)
  with pytest.raises(ValueError, match='target_length=8'):
    packed_pairs([pair], 20, 8)

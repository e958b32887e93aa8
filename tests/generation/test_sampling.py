"""Penalty, temperature and filters do what their definitions say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lctx.generation import sampling
from lctx.generation.sampling import Sampling


def by_definition(p, seen, s):
  """One row of probabilities, by sorting nothing and trusting no helper."""
  p = [q**s.repetition_penalty if old else q for q, old in zip(p, seen)]
  if s.temperature == 0:
    return np.eye(len(p))[p.index(max(p))]
  p = np.array([q ** (1 / s.temperature) for q in p])
  if s.top_k:
    p = p * [sum(r > q for r in p) < s.top_k for q in p]
  p = p / p.sum()
  p = p * [p[p > q].sum() < s.top_p for q in p]
  p = p * [q >= s.min_p * max(p) for q in p]
  return p / p.sum()


def random_rows(rows, size, seed=0):
  """Probabilities in 64ths, so that many are equal and sums are exact."""
  random = np.random.RandomState(seed)
  p = 1 + random.multinomial(64 - size, random.dirichlet(np.ones(size)), rows)
  return p / 64, random.rand(rows, size) < 0.5


def ours(p, seen, s):
  logp = jnp.log(jnp.asarray(p, jnp.float32))
  return np.exp(sampling.distribution(logp, jnp.asarray(seen), s))


SETTINGS = [
  Sampling(),
  Sampling(temperature=0),
  Sampling(temperature=0.5),
  Sampling(temperature=3),
  Sampling(top_k=1),
  Sampling(top_k=3),
  Sampling(top_k=100),
  Sampling(top_p=0.01),
  Sampling(top_p=0.7),
  Sampling(min_p=0.3),
  Sampling(min_p=1),
  Sampling(repetition_penalty=1.7),
  Sampling(repetition_penalty=0.5),
  Sampling(temperature=0, repetition_penalty=1.7),
  Sampling(1.4, 6, 0.83, 0.21, 1.3),
]


@pytest.mark.parametrize('setting', SETTINGS, ids=str)
def test_the_distribution_is_the_one_defined(setting):
  p, seen = random_rows(rows=50, size=11)
  wanted = [by_definition(list(row), s, setting) for row, s in zip(p, seen)]
  np.testing.assert_allclose(ours(p, seen, setting), wanted, atol=1e-5)


def test_equal_tokens_stay_or_go_together():
  p = np.array([[0.1, 0.3, 0.3, 0.2, 0.1]])
  none = np.zeros_like(p, bool)

  def kept(**kw):
    return ''.join('.#'[int(q > 0)] for q in ours(p, none, Sampling(**kw))[0])

  assert kept(top_k=1) == '.##..'
  assert kept(top_k=2) == '.##..'
  assert kept(top_k=3) == '.###.'
  assert kept(top_k=4) == '#####'
  assert kept(top_p=0.25) == '.##..'
  assert kept(top_p=0.75) == '.###.'
  assert kept(top_p=0.85) == '#####'
  assert kept(min_p=0.5) == '.###.'
  assert kept(temperature=0) == '.#...'


def test_a_token_always_stays_however_hard_the_filters_are():
  random = np.random.RandomState(0)
  logits = jnp.asarray(random.randn(8, 50) * 1e3, jnp.float32)
  logp = jax.nn.log_softmax(logits).at[:, 3].set(-jnp.inf)
  seen = jnp.asarray(random.rand(8, 50) < 0.5)
  for temperature in (sampling.COLDEST, 1.0, 1e6):
    setting = Sampling(temperature, 1, 1e-9, 1.0, 5.0)
    p = np.exp(sampling.distribution(logp, seen, setting))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert (p[:, 3] == 0).all()


def test_nucleus_of_a_large_vocabulary_holds_its_mass_and_no_token_more():
  logits = np.random.RandomState(0).randn(4, 30_000)
  logp = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
  kept = np.isfinite(sampling.keep_top_p(logp, 0.9))
  p = np.exp(np.asarray(logp, np.float64))
  for p_V, kept_V in zip(p, kept):
    mass = p_V[kept_V].sum()
    assert mass > 0.9 - 1e-4
    assert mass - p_V[kept_V].min() < 0.9 + 1e-4


def test_tokens_come_as_often_as_their_probability_says():
  p, seen = random_rows(rows=1, size=7, seed=3)
  setting = Sampling(1.3, 5, 0.95, 0.05, 1.5)
  wanted = by_definition(list(p[0]), seen[0], setting)
  draws = 20_000
  keys = sampling.row_keys(jax.random.key(0), draws, 0)
  logp = jnp.log(jnp.asarray(p, jnp.float32)).repeat(draws, axis=0)
  tokens = sampling.sample(logp, seen.repeat(draws, axis=0), setting, keys)
  counts = np.bincount(tokens, minlength=7)
  assert (counts[wanted == 0] == 0).all()
  w = wanted[wanted > 0] * draws
  chi_square = ((counts[wanted > 0] - w) ** 2 / w).sum()
  assert len(w) >= 2 and chi_square < 20.5  # p = 0.001 at 5 degrees


def test_a_row_draws_the_same_whatever_rows_are_beside_it():
  logp = jax.nn.log_softmax(
    jnp.asarray(np.random.RandomState(0).randn(5, 40), jnp.float32)
  )
  seen = jnp.zeros((5, 40), bool)
  key = jax.random.key(7)
  for step in range(4):
    two, five = (
      sampling.sample(
        logp[:n], seen[:n], Sampling(), sampling.row_keys(key, n, step)
      )
      for n in (2, 5)
    )
    assert (two == five[:2]).all()


def test_every_row_and_step_has_its_own_key():
  keys = [sampling.row_keys(jax.random.key(1), 8, step) for step in range(8)]
  data = np.concatenate([jax.random.key_data(k) for k in keys])
  assert len(np.unique(data, axis=0)) == 64


def test_marks_add_the_valid_tokens_of_each_row():
  seen = jnp.zeros((2, 5), bool).at[0, 4].set(True)
  tokens = jnp.array([[1, 1, 2], [0, 3, 3]])
  valid = jnp.array([[True, False, False], [False, True, False]])
  marked = sampling.mark(seen, tokens, valid)
  assert [''.join('.#'[int(v)] for v in row) for row in marked] == [
    '.#..#',
    '...#.',
  ]


@pytest.mark.parametrize(
  'field, values',
  {
    'temperature': (-1.0, 1e-6, float('nan'), float('inf')),
    'top_k': (-1, 2.5),
    'top_p': (0.0, 1.1, float('nan')),
    'min_p': (-0.1, 1.1),
    'repetition_penalty': (0.0, -1.0, float('inf')),
  }.items(),
)
def test_a_value_that_means_nothing_is_refused_by_name(field, values):
  for value in values:
    with pytest.raises(ValueError, match=field):
      Sampling(**{field: value})


def test_a_filter_without_effect_is_refused():
  with pytest.raises(ValueError, match='top_k, min_p would have no effect'):
    Sampling(temperature=0, top_k=5, min_p=0.1)


def test_a_token_is_not_kept_once_those_before_it_reach_top_p():
  """As Holtzman et al. 2020 have it: the smallest set that reaches p."""
  logp_BV = jnp.log(jnp.array([[0.25, 0.5, 0.25]]))
  kept = jnp.isfinite(sampling.keep_top_p(logp_BV, 0.5))
  assert kept.tolist() == [[False, True, False]]

"""The oracle against the published code, and against its own laws."""

import json
import math
import pathlib

import numpy as np
import pytest
import reference

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'transformer_xl'
SEEDS = range(12)
EXACT = 1e-10  # float64, the same sums in another order


@pytest.mark.parametrize(
  'name',
  [
    'txl_base',
    'txl_adaptive_div4',
    'txl_eval_clamp_same_length',
    'txl_learnable_type1',
  ],
)
def test_agrees_with_the_published_code(name, close):
  with np.load(GOLDEN / f'{name}.npz') as file:
    golden = dict(file)
  config = json.loads(str(golden['config']))
  params = {
    key.removeprefix('param/'): value
    for key, value in golden.items()
    if key.startswith('param/')
  }
  result = reference.transformer_xl(params, config, golden['ids'])
  close(result.nll, golden['nll'])
  close(result.hidden, golden['hidden'])
  assert len(result.mems) == config['n_layer'] + 1
  for i, mem in enumerate(result.mems):
    close(mem, golden[f'mems/{i}'])
  loss = result.nll.mean() * config['segments']
  close(loss, golden['loss'])
  shapes = {name: value.shape for name, value in params.items()}
  assert shapes == reference.shapes(config)
  for tied, source in reference.ties(config).items():
    np.testing.assert_array_equal(params[tied], params[source])


ENWIK8 = {'n_layer': 12, 'd_model': 512, 'n_head': 8, 'd_head': 64}
LARGE = {'n_layer': 24, 'd_model': 1024, 'n_head': 8, 'd_head': 128}
WT103 = {'n_token': 267735, 'cutoffs': [20000, 40000, 200000]}
LM1B = {'n_token': 793471, 'cutoffs': [60000, 100000, 640000]}


@pytest.mark.parametrize(
  ('count', 'fields'),
  [
    (41_055_436, ENWIK8 | {'n_token': 204, 'd_inner': 2048}),
    (277_231_820, LARGE | {'n_token': 204, 'd_inner': 3072}),
    (40_964_635, ENWIK8 | {'n_token': 27, 'd_inner': 2048}),
    (
      151_107_538,
      WT103
      | {'n_layer': 16, 'd_model': 410, 'n_head': 10, 'd_head': 41}
      | {'d_inner': 2100, 'tie_projs': [False, True, True, True]},
    ),
    (
      285_170_506,
      WT103
      | {'n_layer': 18, 'd_model': 1024, 'n_head': 16, 'd_head': 64}
      | {'d_inner': 4096, 'tie_projs': [False, True, True, True]}
      | {'div_val': 4},
    ),
    (
      357_812_082,
      LM1B
      | {'n_layer': 18, 'd_model': 1024, 'n_head': 8, 'd_head': 128}
      | {'d_inner': 4096, 'tie_projs': [False] * 4, 'div_val': 4},
    ),
    (
      841_295_982,
      LM1B
      | {'n_layer': 24, 'd_model': 1280, 'n_head': 16, 'd_head': 80}
      | {'d_inner': 8192, 'tie_projs': [False] * 4, 'div_val': 4},
    ),
  ],
)
def test_counts_the_parameters_of_the_published_models(count, fields):
  config = {
    'd_embed': None,
    'div_val': 1,
    'cutoffs': [],
    'tie_projs': [False],
    'tie_weight': True,
    'attn_type': 0,
  } | fields
  left_out = {'pos_emb.inv_freq', *reference.ties(config)}
  shapes = reference.shapes(config)
  counted = [math.prod(s) for name, s in shapes.items() if name not in left_out]
  assert sum(counted) == count


@pytest.mark.parametrize('seed', SEEDS)
def test_a_long_memory_makes_segments_equal_one_causal_pass(seed, close):
  config, params, ids = draw(seed, same_length=False)
  length = ids.shape[1] - 1
  config['mem_len'] = length
  segments = reference.transformer_xl(params, config, ids)
  causal = np.tri(length, dtype=bool)
  same(close, segments, reference.full_pass(params, config, ids, causal))
  ones = reference.transformer_xl(params, config, ids, [1] * length)
  same(close, segments, ones)
  for a, b in zip(segments.mems, ones.mems):
    close(a, b, EXACT)


@pytest.mark.parametrize('seed', SEEDS)
def test_same_length_equals_one_pass_under_a_band(seed, close):
  config, params, ids = draw(seed, same_length=True)
  config['mem_len'] = width = 3
  segments = reference.transformer_xl(params, config, ids, ragged(ids))
  steps = reference.distance(ids.shape[1] - 1, 0)
  band = (steps >= 0) & (steps < width)
  same(close, segments, reference.full_pass(params, config, ids, band))
  wider = reference.full_pass(
    params, config, ids, (steps >= 0) & (steps <= width)
  )
  assert abs(wider.hidden - segments.hidden).max() > 1e-3


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('mem_len', [0, 2, 5])
def test_memory_equals_one_pass_under_a_staircase(seed, mem_len, close):
  config, params, ids = draw(seed, same_length=False)
  config['mem_len'] = mem_len
  lengths = ragged(ids)
  segments = reference.transformer_xl(params, config, ids, lengths)
  starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
  key = np.arange(ids.shape[1] - 1)[None, :]
  allowed = (key <= key.T) & (key >= starts[:, None] - mem_len)
  same(close, segments, reference.full_pass(params, config, ids, allowed))


@pytest.mark.parametrize('seed', SEEDS)
def test_a_token_reaches_width_less_one_steps_per_layer(seed):
  config, params, ids = draw(seed, same_length=True, n_layer=2, mem_len=3)
  token, last = 4, 4 + 2 * (3 - 1)
  before = reference.transformer_xl(params, config, ids).hidden
  ids[:, token] = (ids[:, token] + 1) % config['n_token']
  after = reference.transformer_xl(params, config, ids).hidden
  change = abs(after - before).max((0, 2))
  reached = [i for i, c in enumerate(change) if c > EXACT]
  assert reached == list(range(token, last + 1))


@pytest.mark.parametrize('seed', SEEDS)
def test_a_new_document_equals_a_run_of_its_own(seed, close):
  config, params, ids = draw(seed)
  length = ids.shape[1] - 1
  borders = [[2, 7], [5, 6]]
  documents = np.stack(
    [np.searchsorted(b, range(length), 'right') for b in borders]
  )
  lengths = ragged(ids)
  packed = reference.transformer_xl(params, config, ids, lengths, documents)
  cuts = np.cumsum(lengths)
  for row, border in enumerate(borders):
    for start, end in zip([0, *border], [*border, length]):
      inside = [start, *[c for c in cuts if start < c < end], end]
      alone = reference.transformer_xl(
        params, config, ids[row : row + 1, start : end + 1], np.diff(inside)
      )
      hidden = packed.hidden[row, start:end]
      close(alone.hidden[0], hidden, EXACT)
      nll = packed.nll[row, start:end]
      close(alone.nll[0], nll, EXACT)
  if not config['same_length'] or config['mem_len'] > 1:
    blind = reference.transformer_xl(params, config, ids, lengths)
    assert abs(blind.hidden - packed.hidden).max() > 1e-3


@pytest.mark.parametrize('seed', SEEDS)
def test_the_probabilities_of_all_tokens_sum_to_one(seed):
  config, params, _ = draw(seed)
  h = np.random.default_rng(seed).standard_normal((2, 3, config['d_model']))
  log_probs = reference.adaptive_log_probs(params, config, h)
  assert log_probs.shape == (2, 3, config['n_token'])
  np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=EXACT)


def test_the_last_cluster_column_is_the_first_tail_bin():
  config = reference.random_config(np.random.default_rng(0)) | {
    'n_token': 9,
    'cutoffs': [3, 5],
    'div_val': 1,
    'd_embed': None,
    'tie_projs': [False] * 3,
  }
  params = reference.random_params(config, np.random.default_rng(1), 0.0)
  params['crit.cluster_bias'] = np.log([8.0, 4.0])
  h = np.zeros(config['d_model'])
  probs = np.exp(reference.adaptive_log_probs(params, config, h))
  head = [1 / 15] * 3
  np.testing.assert_allclose(probs, [*head, *[2 / 15] * 2, *[2 / 15] * 4])


@pytest.mark.parametrize('seed', SEEDS)
def test_every_random_tensor_shows_in_the_losses(seed):
  config, params, ids = draw(seed, mem_len=7, clamp_len=3)
  for name in set(params) - {'pos_emb.inv_freq'}:
    before = reference.transformer_xl(params, config, ids).nll
    noise = np.random.default_rng(1).standard_normal(params[name].shape)
    other = params | {name: params[name] + 0.1 * noise}
    after = reference.transformer_xl(other, config, ids).nll
    assert abs(after - before).max() > 1e-6, name


def test_draws_every_kind_of_configuration():
  rng = np.random.default_rng(0)
  drawn = [reference.random_config(rng) for _ in range(300)]
  assert json.loads(json.dumps(drawn)) == drawn
  for attn_type in (0, 1):
    for div_val in (1, 2, 4):
      for cut in (False, True):
        for tied in (False, True):
          assert any(
            (c['attn_type'], c['div_val'], bool(c['cutoffs']), c['tie_weight'])
            == (attn_type, div_val, cut, tied)
            for c in drawn
          )
  assert {c['mem_len'] for c in drawn} >= {0, 1, 2, 3, 7, 11}
  assert any(c['d_embed'] not in (None, c['d_model']) for c in drawn)
  assert any(c['mem_len'] < c['tgt_len'] for c in drawn)


def draw(seed, **fields):
  """A random configuration with `fields` set, parameters and ids [2, 13]."""
  rng = np.random.default_rng(seed)
  config = reference.random_config(rng) | fields
  params = reference.random_params(config, rng)
  return config, params, rng.integers(0, config['n_token'], (2, 13))


def ragged(ids):
  """Segments of 3, 1, 5 and the rest."""
  return [3, 1, 5, ids.shape[1] - 1 - 9]


def same(close, a, b):
  close(a.nll, b.nll, EXACT)
  close(a.hidden, b.hidden, EXACT)

"""Sums of blocks as keys: published values, the definition, and decoding."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.config import Config, override
from lctx.data import Bytes, Lanes, Stdlib
from lctx.generation import decode
from lctx.kernels.banded import Banded
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.memory import Layer, TransientGlobal
from lctx.memory.transient_global import blocks_of
from lctx.models.attention import Attention, OfMemory
from lctx.models.carry import LayerCarry
from lctx.models.heads import AdaptiveScores, Heads
from lctx.models.parts import Compute
from lctx.optimizer import Adam
from lctx.patterns import Causal, Everything, Window
from lctx.positions import (
  Learned,
  LearnedRelative,
  NoPosition,
  RelativeXL,
  Rope,
  Sinusoidal,
  Sizes,
  T5Bias,
)
from lctx.training import flops
from lctx.types import segment_coords

GOLDEN = sorted((Path(__file__).parents[1] / 'golden/longt5').glob('*.npz'))
POSITIONS = {
  'none': NoPosition(),
  't5': T5Bias(8, 7, both_ways=True),
  't5 per layer': T5Bias(8, 7, both_ways=True, per_layer=True),
  'xl': RelativeXL(),
  'learned': LearnedRelative(4, ahead=3),
  'rope': Rope(),
}
DOCUMENT = jnp.asarray([[0] * 11, [0] * 4 + [1] * 7], jnp.int32)


def bias_of(config):
  buckets = config['relative_attention_num_buckets']
  farthest = config['relative_attention_max_distance']
  return T5Bias(buckets, farthest, both_ways=True)


def sizes_of(config, x):
  heads, length = config['num_heads'], x.shape[1]
  return Sizes(
    width=x.shape[-1],
    num_heads=heads,
    key_heads=heads,
    head_width=config['d_kv'],
    distances=length,
    ahead=length - 1,
    dtype=jnp.float32,
    key_width=config['d_kv'],
  )


@pytest.mark.parametrize('path', GOLDEN, ids=lambda path: path.stem)
def test_attention_is_the_published_codes(path, close):
  file = np.load(path)
  config = json.loads(str(file['config']))
  heads, width = config['num_heads'], config['d_kv']
  x, held = jnp.asarray(file['x']), file['mask'] > 0
  sizes = sizes_of(config, x)
  bias, radius = bias_of(config), config['local_radius']
  memory = TransientGlobal(config['global_block_size'], position=bias)
  near = bias.score(None, file['relative_attention_bias.weight'], sizes)
  layer = Attention(
    sizes, Heads(), Window(radius, radius), memory, 0.0, Dense()
  )

  def projection(name):
    return file[f'{name}.weight'].T.reshape(-1, heads, width)

  far = file['global_relative_attention_bias.weight']
  params = {
    'query': projection('q') * width**0.5,
    'key': projection('k'),
    'value': projection('v'),
    'out': file['o.weight'].T.reshape(heads, width, -1),
  }
  scale = file['global_input_layer_norm.weight']
  of_memory = OfMemory(lambda *_: scale, far)
  at = segment_coords(jnp.where(held, 0, -1))

  @tiny.quick_jit
  def attended(params, x):
    given = {'params': params}
    args = x, at, LayerCarry(()), (near,), lambda x: x, of_memory
    return layer.apply(given, *args)[0]

  y = attended(params, x)
  close(np.asarray(y)[held], file['y'][held])


def blocks_by_hand(document, block, causal):
  """Of one row, token by token: number, where it counts from, documents."""
  sums, tokens, numbers = [], [], [-1] * len(document)
  for t, name in enumerate(document):
    if name < 0:
      continue
    if tokens and document[tokens[0]] != name:
      tokens = []
    tokens.append(t)
    if len(tokens) == block:
      for token in tokens:
        numbers[token] = len(sums)
      sums.append(name)
      tokens = []
  ended = [
    sum(s <= t for s in last_tokens(numbers)) - 1 for t in range(len(document))
  ]
  if not causal:
    for t, name in enumerate(document):
      before = [numbers[s] for s in range(t) if document[s] == name >= 0]
      if numbers[t] < 0 and before:
        numbers[t] = before[-1]
  return numbers, ended if causal else numbers, sums


def last_tokens(numbers):
  return [
    max(t for t, number in enumerate(numbers) if number == n)
    for n in range(max(numbers) + 1)
  ]


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('block', [1, 2, 3, 5])
def test_blocks_are_counted_document_by_document(block, causal):
  random = np.random.default_rng(block)
  for _ in range(20):
    document = np.sort(random.integers(-1, 4, (1, 13)))
    document = np.roll(document, -(document < 0).sum())  # padding comes last
    found = blocks_of(jnp.asarray(document), block, 13 // block, causal=causal)
    numbers, counted, sums = blocks_by_hand(document[0], block, causal)
    np.testing.assert_array_equal(found.of_token[0], numbers)
    np.testing.assert_array_equal(found.counted[0], counted)
    sums += [-1] * (13 // block - len(sums))
    np.testing.assert_array_equal(found.document[0], sums)


def model_of(position, causal, kernel, pattern=None):
  scheme = POSITIONS[position]
  if causal and position.startswith('t5'):
    scheme = dataclasses.replace(scheme, both_ways=False)
  memory = TransientGlobal(3, causal=causal, position=scheme)
  pattern = pattern or (Window(2) if causal else Window(2, 2))
  model = tiny.transformer_xl(pre_norm=True)
  return dataclasses.replace(
    model,
    memory=memory,
    position=T5Bias(8, 7, both_ways=True),
    pattern=pattern,
    heads=Heads(cap=3.0),
    compute=Compute(kernel=kernel),
  )


@pytest.mark.parametrize(
  'position, causal',
  [(name, bool(i % 2)) for i, name in enumerate(POSITIONS)],
)
def test_kernels_agree_and_every_parameter_counts(position, causal, close):
  def value(model, params):
    def loss(params):
      at = segment_coords(DOCUMENT)
      carry, given = model.initial(2), {'params': params}
      x, *_ = model.apply(given, tiny.some_ids(2, 11), at, carry)
      return (x * jnp.cos(jnp.arange(x.size).reshape(x.shape))).sum(), x

    return tiny.quick_jit(jax.value_and_grad(loss, has_aux=True))(params)

  model = model_of(position, causal, Dense())
  params = tiny.large_params(model)
  (_, x), grads = value(model, params)
  (_, y), others = value(model_of(position, causal, Chunked(4, 2)), params)
  close(y, x)
  jax.tree.map(close, others, grads)
  table = grads.pop('vocabulary')
  assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(grads))
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(table))


@pytest.mark.parametrize('position, width', [('t5', 3), ('xl', 5)])
def test_decoded_in_pieces_it_is_the_whole_segment(position, width, close):
  model = model_of(position, True, Dense())
  params, ids = tiny.large_params(model), tiny.some_ids(1, 23)
  hidden, _ = tiny.loop(model, params, ids, [8, 8, 7])
  log_probs = tiny.log_probs(model, params, hidden)[0, :-1]
  nll = -np.take_along_axis(np.asarray(log_probs), ids[0, 1:, None], 1)[:, 0]
  alone = decode.score(model, params, np.asarray(ids[0]), 8, width)
  close(alone, nll, 1e-4)


def test_causal_blocks_show_nothing_of_what_is_ahead():
  model = model_of('t5', True, Dense())
  params, ids = tiny.large_params(model), tiny.some_ids(1, 12)

  def last(ids):
    return tiny.loop(model, params, ids, [12])[0][0]

  before = last(ids)
  after = last(ids.at[0, 7].add(1))
  np.testing.assert_array_equal(before[:7], after[:7])
  assert np.abs(before[11] - after[11]).max() > 1e-3, 'by its block alone'


def test_both_ways_a_query_sees_every_block_of_its_document():
  model = model_of('t5', False, Dense(), pattern=Window(1, 1))
  params, ids = tiny.large_params(model), tiny.some_ids(2, 11)

  def read(ids):
    return tiny.loop(model, params, ids, [11], DOCUMENT)[0]

  moved = np.abs(read(ids.at[:, 10].add(1)) - read(ids)).max(axis=-1)
  assert (moved[0] > 1e-5).all()
  assert (moved[1, :4] == 0).all() and (moved[1, 4:] > 1e-5).all()


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'pattern': Causal()}, ['model.pattern', 'model.memory.causal=true']),
    (
      {'heads': Heads(adaptive=AdaptiveScores())},
      ['model.heads.adaptive', 'transientglobal'],
    ),
    (
      {'compute': Compute(kernel=Banded())},
      ['banded', 'model.memory = transientglobal', 'chunked'],
    ),
  ],
)
def test_what_cannot_work_is_refused(change, words):
  model = model_of('t5', False, Dense())
  with pytest.raises(ValueError) as error:
    dataclasses.replace(model, **change)
  assert all(word in str(error.value) for word in words), error.value


def test_by_default_blocks_ahead_have_buckets_where_they_are_seen():
  assert TransientGlobal().scheme == T5Bias(both_ways=True)
  assert TransientGlobal(causal=True).scheme == T5Bias()


def test_dropout_draws_for_each_query_and_block():
  """And not what it draws for tokens."""
  length, block = 32, 4
  at = segment_coords(jnp.zeros((1, length), jnp.int32))
  sizes = dataclasses.replace(
    tiny.transformer_xl().sizes(), distances=length, ahead=length - 1
  )
  x = jnp.ones((1, length, sizes.width))
  q = jnp.ones((1, length, sizes.num_heads, sizes.head_width))
  near = Source(q, q, q, at, at, (), Everything())
  memory = TransientGlobal(block, position=NoPosition())
  layer = Layer(
    tokens=None,
    near=near,
    x=x,
    norm=lambda x: x,
    project=lambda x: (q[:, :8], q[:, :8]),
    queries=None,
    kernel=None,
    shared=None,
    sizes=sizes,
  )

  @tiny.quick_jit
  def masks(key):
    sources = memory.sources(lambda *_, **__: jnp.ones(16), (), near, layer)
    dropout = Dropout(jax.random.key_data(key), 0.5)
    return [dropout.keep(s.heads_N, s.q_at, s.k_at) for s in sources]

  of_tokens, of_blocks = (
    np.asarray(mask)[:, 0] > 0 for mask in masks(jax.random.key(0))
  )
  assert of_blocks.shape == (2, length, 8)
  neighbours = of_blocks[:, 1:] == of_blocks[:, :-1]
  ends = of_tokens[:, :, block - 1 :: block]
  for share in (neighbours.mean(), (of_blocks == ends).mean()):
    assert 0.4 < share < 0.6, share


def test_flops_count_blocks_as_they_are_seen():
  def attention(causal, block):
    memory = TransientGlobal(block, causal=causal, position=NoPosition())
    model = dataclasses.replace(
      model_of('none', causal, Dense()), memory=memory
    )
    counted = flops.count(model, 12)
    return counted.attention + counted.memory

  none, both, causal = (
    attention(*case) for case in ((True, 13), (False, 4), (True, 4))
  )
  per_key = 2 * 2 * 2 * 16  # layers, products, operations, width
  window = np.minimum(np.arange(12) + 1, 3).mean()
  assert none == per_key * window
  ended = np.mean([(t + 1) // 4 for t in range(12)])
  made = 2 * 2 * (2 * 16 * 16) * 3 / 12  # layers, key and value, of 3 blocks
  assert causal == pytest.approx(per_key * (window + ended) + made)
  sides = np.mean([min(t + 2, 11) - max(t - 2, 0) + 1 for t in range(12)])
  assert both == pytest.approx(per_key * (sides + 3) + made)


def test_a_block_that_no_segment_fills_is_refused():
  config = Config(
    model=model_of('none', True, Dense()),
    data=Lanes(Stdlib(), Bytes(), rows=4, segment=8),
    optimizer=Adam(peak=1e-3),
  )
  with pytest.raises(ValueError, match=r'block = 3 .* eval\.segment = 2'):
    override(config, {'eval.segment': '2'})


def test_impossible_options_are_refused():
  with pytest.raises(ValueError, match=r'model\.memory\.block = 0'):
    TransientGlobal(0)
  for position in (Learned(8), Sinusoidal()):
    with pytest.raises(ValueError, match='counts blocks'):
      TransientGlobal(position=position)
  with pytest.raises(
    ValueError, match=r'model\.memory\.position = t5bias has no buckets'
  ):
    dataclasses.replace(
      model_of('t5', False, Dense()),
      memory=TransientGlobal(3, position=T5Bias()),
    )


def test_a_picture_shows_the_blocks_that_queries_see():
  assert TransientGlobal(2).picture(5) == ['##'] * 5
  causal = TransientGlobal(2, causal=True).picture(5)
  assert causal == ['..', '#.', '#.', '##', '##']

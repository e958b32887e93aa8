"""An encoder-decoder obeys the laws of its halves, and of the two together."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx import presets
from lctx.generation.reading import begin
from lctx.layers.norm import RMSNorm
from lctx.memory import Associative, Tokens, XLCache
from lctx.models.carry import first_layer
from lctx.models.tasks import Spans, TextLabels, TextScores, TokenLabels
from lctx.patterns import Window
from lctx.positions import Learned, T5Bias
from lctx.types import EMPTY, GLOBAL, segment_coords

VOCAB, READ, WRITTEN = 29, 11, 7
T5_BIAS = {'position': T5Bias(8, 7)}
BOTH_WAYS = {'position': T5Bias(8, 7, both_ways=True)}


def small(preset, *sizes, **parts):
  embed = {'vocab': VOCAB, **parts.pop('embed', {})}
  return preset(2, 16, 2, *sizes, embed=embed, **parts)


def t5(**encoder):
  sides = {'encoder': BOTH_WAYS | encoder, 'decoder': T5_BIAS}
  return small(presets.t5, **sides)


MODELS = {
  't5': t5(),
  't5, tied': small(presets.t5, tied=True, encoder=BOTH_WAYS),
  't5, two vocabularies': dataclasses.replace(t5(), shared=False),
  'longt5': small(presets.longt5, radius=3, block=4),
  'bart': small(presets.bart, 20),
  'led': small(presets.led, 20, written=20, window=(2, 3), most=4),
  'memory tokens': t5(memory=Tokens(2, RMSNorm())),
}


def params_of(model):
  shapes = jax.eval_shape(model.init_params, jax.random.key(0))
  leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
  random = np.random.default_rng(0)

  def draw(path, leaf):
    values = random.standard_normal(leaf.shape)
    if path[-1].key == 'scale':
      values = 1 + values / 2
    elif 'bias' not in path[-1].key:
      values /= np.sqrt(16)
    return jnp.asarray(values, jnp.float32)

  return tree.unflatten([draw(*leaf) for leaf in leaves])


def source(rows=2):
  """Texts of 11 and of 6 tokens, of which some are global."""
  ids = tiny.some_ids(rows, READ, VOCAB)
  document = np.zeros((rows, READ), np.int32)
  document[1:, 6:] = EMPTY
  role = np.zeros((rows, READ), np.int32)
  role[:, [0, 4]] = GLOBAL
  return ids, segment_coords(jnp.asarray(document)).replace(role=role)


def written(model, params, carry, ids, document=None):
  document = jnp.zeros_like(ids) if document is None else document
  own = {'params': model.params_of(params, 'decoder')}
  at = segment_coords(document)
  hidden, _, _ = model.target.apply(own, ids, at, carry)
  return model.target.apply(own, hidden, method='log_probs')


def both(model, params, given, ids, **how):
  read = tiny.quick_jit(
    lambda params: written(
      model, params, model.read(params, *given, **how)[0], ids
    )
  )
  return read(params)


@pytest.mark.parametrize('name', MODELS)
def test_decoded_token_by_token_is_teacher_forced(name, close):
  model = MODELS[name]
  params, ids = params_of(model), tiny.some_ids(2, WRITTEN, VOCAB, seed=1)
  want = both(model, params, source(), ids)
  carry, _ = model.read(params, *source())
  own, target = model.params_of(params, 'decoder'), model.target
  context = first_layer(carry.context)
  reader, state = begin(target, own, 2, WRITTEN, context=context)
  got = tiny.decoded(reader, state, ids)
  picked = jnp.take_along_axis(want[:, :-1], ids[:, 1:, None], axis=2)[..., 0]
  close(got, -picked, 1e-4)


@pytest.mark.parametrize('name', [x for x in MODELS if x != 'memory tokens'])
def test_rows_read_as_they_would_alone(name, close):
  """Padding of a source is seen by nobody, of whatever length.

  Memory tokens stand behind it, at other distances.
  """
  model = MODELS[name]
  params, ids = params_of(model), tiny.some_ids(2, WRITTEN, VOCAB, seed=1)
  tokens, at = source()
  want = both(model, params, (tokens, at), ids)
  short = tokens[1:, :6], jax.tree.map(lambda x: x[1:, :6], at)
  close(both(model, params, short, ids[1:]), want[1:])
  changed = tokens.at[1, 6:].add(1) % VOCAB
  np.testing.assert_array_equal(both(model, params, (changed, at), ids), want)


@pytest.mark.parametrize('name', ['t5', 'bart'])
def test_packed_pairs_are_the_pairs_alone(name, close):
  """Each target sees the source of its own number, and itself."""
  model = MODELS[name]
  params = params_of(model)
  ids = tiny.some_ids(1, READ, VOCAB), tiny.some_ids(1, WRITTEN, VOCAB, seed=1)
  of_source = jnp.asarray([[0] * 4 + [1] * 5 + [EMPTY] * 2], jnp.int32)
  of_target = jnp.asarray([[0] * 3 + [1] * 4], jnp.int32)
  carry, _ = model.read(params, ids[0], segment_coords(of_source))
  got = written(model, params, carry, ids[1], of_target)
  for read, write in (
    (slice(0, 4), slice(0, 3)),
    (slice(4, 9), slice(3, 7)),
  ):
    own = ids[0][:, read]
    alone = segment_coords(jnp.zeros_like(own))
    carry, _ = model.read(params, own, alone)
    want = written(model, params, carry, ids[1][:, write])
    close(got[:, write], want)


def test_a_stateful_encoder_reads_by_segments_what_it_reads_at_once(close):
  """A cache of all that came before, and a pattern that looks back alone."""
  model = t5(memory=XLCache(READ), pattern=Window(READ, 0))
  params, ids = params_of(model), tiny.some_ids(2, WRITTEN, VOCAB, seed=1)
  want = both(model, params, source(), ids)
  for segment in (1, 4, READ):
    close(both(model, params, source(), ids, segment=segment), want)


RMT, ARMT = Tokens(2, RMSNorm()), Associative(2, 4, 2)


@pytest.mark.parametrize(
  'memory, context', [(RMT, 'all'), (RMT, 'memory'), (ARMT, 'all')], ids=str
)
def test_what_an_encoder_remembers_reaches_the_decoder(memory, context):
  """Of the first segment, through the others; with gradients all the way."""
  model = dataclasses.replace(t5(memory=memory), context=context)
  params, ids = params_of(model), tiny.some_ids(2, WRITTEN, VOCAB, seed=1)
  tokens, at = source()

  def loss(params, tokens):
    carry, _ = model.read(params, tokens, at, segment=4)
    return written(model, params, carry, ids)

  other = tokens.at[:, 1].add(1) % VOCAB
  run = tiny.quick_jit(loss)
  moved = np.abs(run(params, tokens) - run(params, other)).max(axis=(1, 2))
  assert (moved > 1e-5).all(), moved
  grads = tiny.quick_jit(jax.grad(lambda p: loss(p, tokens)[..., 0].sum()))(
    params
  )
  unused = [
    jax.tree_util.keystr(path)
    for path, g in jax.tree_util.tree_leaves_with_path(grads)
    if not np.abs(g).max() > 0
  ]
  assert not unused


def test_a_context_of_memory_wants_tokens_behind_the_text():
  for memory in (XLCache(4), ARMT):
    with pytest.raises(ValueError, match='keeps no tokens from behind'):
      dataclasses.replace(t5(memory=memory), context='memory')
  with pytest.raises(ValueError, match="'all' or 'memory'"):
    dataclasses.replace(t5(), context='last')
  with pytest.raises(ValueError, match=r'model\.encoder\.position = t5bias'):
    small(presets.t5, encoder={'position': T5Bias()})


def test_a_decoder_that_has_no_context_says_so():
  model = t5()
  params = params_of(model)
  with pytest.raises(ValueError, match='wants one'):
    written(model, params, model.target.initial(1), tiny.some_ids(1, 3, VOCAB))
  source_params = {'params': model.params_of(params, 'encoder')}
  carry, _ = model.read(params, *source())
  tokens, at = source()
  with pytest.raises(ValueError, match='wants none'):
    model.source.apply(source_params, tokens, at, carry)


def shared_arrays(model, other):
  """`other`'s parameters, with those of `model` wherever they are alike."""

  def merged(own, theirs):
    if not isinstance(theirs, dict):
      return own
    return {
      name: merged(own[name], leaf) if name in own else leaf
      for name, leaf in theirs.items()
    }

  return merged(params_of(model), params_of(other))


def test_longt5_that_sees_all_is_t5(close):
  one, other = (
    t5(),
    small(
      presets.longt5,
      radius=READ,
      block=None,
      encoder=BOTH_WAYS,
      decoder=T5_BIAS,
    ),
  )
  ids, params = tiny.some_ids(2, WRITTEN, VOCAB, seed=1), params_of(t5())
  close(both(other, params, source(), ids), both(one, params, source(), ids))
  near = small(
    presets.longt5, radius=2, block=None, encoder=BOTH_WAYS, decoder=T5_BIAS
  )
  far = both(near, params, source(), ids) - both(one, params, source(), ids)
  assert np.abs(far).max() > 0.01


def without_roles(at):
  return at.replace(role=jnp.zeros_like(at.role))


def test_led_that_sees_all_is_bart(close):
  tokens, at = source()
  given = tokens, without_roles(at)
  positions = {'encoder': {'position': Learned(20)}}
  one = small(presets.bart, 20, decoder={'position': Learned(20)}, **positions)
  other = small(presets.led, 20, written=20, window=READ, most=4)
  params = shared_arrays(one, other)
  ids = tiny.some_ids(2, WRITTEN, VOCAB, seed=1)
  close(both(other, params, given, ids), both(one, params, given, ids))
  local = small(presets.led, 20, written=20, window=1, most=4)
  far = both(local, params, given, ids) - both(one, params, given, ids)
  assert np.abs(far).max() > 0.01


@functools.partial(tiny.quick_jit, static_argnums=0)
def read_by(model, params, tokens, at):
  own = {'params': params}
  hidden, _, _ = model.apply(own, tokens, at, model.initial(len(tokens)))
  return model.apply(own, hidden, method='log_probs')


def plain_read(*given):
  """Not compiled, for what is compiled whole."""
  return read_by.__wrapped__(*given)


def test_longformer_that_sees_all_is_roberta(close):
  """By a window over all, or where all tokens are global, by their own rows."""
  tokens, at = source()
  one = small(presets.roberta, 20)
  params = params_of(one)
  want = read_by(one, params, tokens, at)
  other = small(presets.longformer, 20, window=READ, most=READ)
  own = shared_arrays(one, other)
  held = at.document >= 0
  plain = without_roles(at)
  close(read_by(other, own, tokens, plain)[held], want[held])
  layers = own['layers']
  for name in ('query', 'key', 'value'):
    for leaf in (name, f'{name}_bias'):
      layers = layers | {f'memory_{leaf}': layers['attention'][leaf]}
  local = small(presets.longformer, 20, window=1, most=READ)
  every = at.replace(role=jnp.full_like(at.role, GLOBAL))
  got = read_by(local, own | {'layers': layers}, tokens, every)
  close(got[held], want[held])
  assert np.abs(read_by(local, own, tokens, plain) - want)[held].max() > 0.01


def test_too_many_global_tokens_are_no_number():
  tokens, at = source()
  model = small(presets.longformer, 20, window=2, most=1)
  got = read_by(model, params_of(model), tokens, at)
  assert np.isnan(got).all(axis=(1, 2)).all()


def test_parameters_of_global_attention_have_gradients():
  tokens, at = source()
  model = small(presets.longformer, 20, window=2, most=2)

  def loss(params):
    return plain_read(model, params, tokens, at)[..., 0].sum()

  grads = tiny.quick_jit(jax.grad(loss))(params_of(model))['layers']
  names = [name for name in grads if name.startswith('memory_')]
  assert len(names) == 6
  for name in names:  # a bias of keys changes no weight of a softmax
    moved = np.abs(grads[name]).max() > 1e-5
    assert moved == (name != 'memory_key_bias'), name


def test_mistral_whose_window_covers_all_is_llama(close):
  one = presets.llama(2, 16, 2, 20, embed={'vocab': VOCAB})
  other = presets.llama(2, 16, 2, 20, window=READ, embed={'vocab': VOCAB})
  params, (tokens, at) = params_of(one), source()
  close(read_by(other, params, tokens, at), read_by(one, params, tokens, at))
  near = presets.llama(2, 16, 2, 20, window=3, embed={'vocab': VOCAB})
  moved = read_by(near, params, tokens, at) - read_by(one, params, tokens, at)
  moved = np.abs(moved[0]).max(axis=1)
  assert (moved[:3] < 1e-5).all() and (moved[3:] > 1e-3).all()


@pytest.mark.parametrize(
  'task, shape',
  [
    (TextLabels(3), (2, 3)),
    (TextLabels(1, of='last'), (2, 1)),
    (TextScores(3), (2, 3)),
    (TokenLabels(4), (2, READ, 4)),
    (Spans(), (2, READ, 2)),
  ],
  ids=str,
)
def test_tasks_ask_of_texts_or_tokens(task, shape):
  tokens, at = source()
  model = small(presets.bert, 20, task=task)
  params = {'params': params_of(model)}
  hidden, _, _ = model.apply(params, tokens, at, model.initial(2))
  got = model.apply(params, hidden, at, method='answers')
  assert got.shape == shape and got.dtype == jnp.float32
  if got.ndim == 2:
    place = 0 if getattr(task, 'of', 'last') == 'first' else 5
    hidden = hidden.at[1, np.arange(READ) != place].set(0)
    again = model.apply(params, hidden, at, method='answers')
    np.testing.assert_array_equal(again[1], got[1])


def test_t5_in_bfloat16_is_finite():
  """Whose states grow from layer to layer: half precision overflows."""
  model = t5()
  compute = dataclasses.replace(model.compute, dtype='bfloat16')
  model = dataclasses.replace(model, compute=compute)
  params = jax.tree.map(lambda x: 30 * x, params_of(model))
  got = both(model, params, source(), tiny.some_ids(2, WRITTEN, VOCAB))
  assert np.isfinite(got).all()

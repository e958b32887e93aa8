"""How a model is computed changes neither what it means nor its size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.kernels.chunked import Chunked
from lctx.models.parts import Compute, Dropout
from lctx.models.segments import scan_segments, split
from lctx.types import segment_coords

SEGMENT = 4
BFLOAT16 = 0.05  # of the largest: eight bits of mantissa through two layers
VARIANTS = {
  'plain': Compute(),
  'layers again': Compute(remat_layers=True),
  'segments again': Compute(remat_segments=True),
  'both again': Compute(remat_layers=True, remat_segments=True),
  'two layers at a time': Compute(unroll=2),
  'by tiles': Compute(kernel=Chunked(3, 4)),
  'by tiles, both again': Compute(
    remat_layers=True, remat_segments=True, kernel=Chunked(4, 9)
  ),
}


def loss(model, params, ids, gradient_segments=1, key=None):
  """Nats of a text of whole segments, scanned."""

  def step(carry, tokens):
    x, y = tokens
    at = segment_coords(jnp.zeros_like(x))
    rngs = {} if key is None else {'dropout': key}
    hidden, carry, _ = model.apply({'params': params}, x, at, carry, rngs=rngs)
    nll = model.apply({'params': params}, hidden, y, method='nll')
    return carry, nll.sum()

  tokens = split((ids[:, :-1], ids[:, 1:]), SEGMENT)
  carry = model.initial(ids.shape[0])
  return scan_segments(
    step,
    carry,
    tokens,
    gradient_segments=gradient_segments,
    remat=model.compute.remat_segments,
  )[1].sum()


def model_with(compute, depth=3):
  return tiny.transformer_xl(depth=depth, memory_length=5, compute=compute)


@pytest.fixture(scope='module')
def plain():
  """Loss and gradients of the plain computation."""
  return value_and_grad(VARIANTS['plain'])


def value_and_grad(compute):
  model = model_with(compute)
  params, ids = tiny.large_params(model), tiny.some_ids(2, 4 * SEGMENT + 1)
  compute = tiny.quick_jit(jax.value_and_grad(lambda p: loss(model, p, ids)))
  return compute(params)


@pytest.mark.parametrize('name', [name for name in VARIANTS if name != 'plain'])
def test_computed_another_way_it_is_the_same(name, plain, close):
  jax.tree.map(close, value_and_grad(VARIANTS[name]), plain)


@pytest.mark.parametrize(
  'name, layers, segments',
  [('plain', 0, 0), ('layers again', 1, 0), ('segments again', 0, 1)],
)
def test_what_is_asked_for_is_recomputed(name, layers, segments):
  """Scans over segments and layers: which bodies sit in a checkpoint."""
  model = model_with(VARIANTS[name])
  params, ids = tiny.large_params(model), tiny.some_ids(2, 4 * SEGMENT + 1)
  jaxpr = jax.make_jaxpr(lambda p: loss(model, p, ids, 0))(params)
  over_segments = bodies(jaxpr.jaxpr, 'scan')[0]
  found = bodies(over_segments, 'remat2') or bodies(over_segments, 'checkpoint')
  assert len(found) == segments
  inner = found[0] if found else over_segments
  over_layers = bodies(inner, 'scan')[0]
  found = bodies(over_layers, 'remat2') or bodies(over_layers, 'checkpoint')
  assert len(found) == layers


def test_layers_are_unrolled_as_asked():
  for name, unroll in (('plain', 1), ('two layers at a time', 2)):
    model = model_with(VARIANTS[name])
    params, ids = tiny.large_params(model), tiny.some_ids(2, 2 * SEGMENT + 1)
    jaxpr = jax.make_jaxpr(lambda p, m=model, i=ids: loss(m, p, i, 0))(params)
    over_segments = bodies(jaxpr.jaxpr, 'scan')[0]
    scans = [e for e in over_segments.eqns if e.primitive.name == 'scan']
    assert [scan.params['unroll'] for scan in scans] == [unroll]


def bodies(jaxpr, name):
  """What equations of this name compute, not looking inside them."""
  found = []
  for equation in jaxpr.eqns:
    inner = [
      getattr(value, 'jaxpr', value)
      for value in equation.params.values()
      if hasattr(value, 'jaxpr') or hasattr(value, 'eqns')
    ]
    if equation.primitive.name == name:
      found += inner
    elif equation.primitive.name in ('pjit', 'jit'):
      found += bodies(inner[0], name)
  return found


def size(depth, segments, gradient_segments):
  """Lines of the program of a training gradient."""
  model = model_with(Compute(), depth)
  params = jax.eval_shape(model.init_params, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((3, segments * SEGMENT + 1), jnp.int32)
  grad = jax.grad(lambda p, ids: loss(model, p, ids, gradient_segments))
  return len(jax.jit(grad).lower(params, ids).as_text().splitlines())


@pytest.mark.parametrize('earlier', [0, 1])
def test_a_program_does_not_grow_with_segments_or_layers(earlier):
  """Numbers that are no other size here: equal shapes share functions."""
  want = size(depth=7, segments=12, gradient_segments=earlier)
  assert size(11, 12, earlier) == want
  assert size(7, 26, earlier) == want


def test_bfloat16_computes_near_float32_and_keeps_what_must_be_exact(close):
  exact = model_with(Compute(), depth=2)
  short = model_with(Compute('bfloat16'), depth=2)
  params, ids = tiny.large_params(exact), tiny.some_ids(2, 12)
  want, _ = tiny.loop(exact, params, ids, [6, 6])
  got, carry = tiny.loop(short, params, ids, [6, 6])
  assert got.dtype == carry.layers[0].memory.states.dtype == jnp.bfloat16
  assert np.isfinite(np.float32(got)).all()
  close(np.float32(got), want, BFLOAT16)
  kinds = jax.eval_shape(short.init_params, jax.random.key(0))
  assert {leaf.dtype for leaf in jax.tree.leaves(kinds)} == {jnp.dtype('f4')}
  want, got = (
    tiny.log_probs(exact, params, want),
    tiny.log_probs(short, params, got),
  )
  assert got.dtype == jnp.float32
  close(got, want, BFLOAT16)
  np.testing.assert_allclose(np.exp(got).sum(axis=-1), 1, atol=1e-5)


def test_bfloat16_takes_every_exponential_in_float32():
  model = model_with(Compute('bfloat16'), depth=2)
  params, ids = tiny.large_params(model), tiny.some_ids(2, SEGMENT + 1)
  text = str(jax.make_jaxpr(lambda p: loss(model, p, ids, 0))(params))
  lines = [line for line in text.splitlines() if ' = exp' in line]
  assert len(lines) >= 2  # attention and vocabulary
  assert all(':f32[' in line for line in lines)
  assert 'bf16[' in text


@functools.partial(tiny.quick_jit, static_argnums=0)
def dropped(dropout, params, key=None):
  model = dataclasses.replace(model_with(Compute(), 2), dropout=dropout)
  ids = tiny.some_ids(2, SEGMENT + 1)
  return loss(model, params, ids, 0, key)


def test_dropout_acts_when_there_is_a_key_and_only_then():
  params = tiny.large_params(model_with(Compute(), 2))
  still = dropped(Dropout(), params)
  assert dropped(Dropout(0.5, 0.5), params) == still
  for dropout in (Dropout(hidden=0.5), Dropout(attention=0.5)):
    first = dropped(dropout, params, jax.random.key(0))
    assert first == dropped(dropout, params, jax.random.key(0)) != still
    assert first != dropped(dropout, params, jax.random.key(1))


@pytest.mark.parametrize(
  'dropout, places',
  # Dai et al. 2019, their code: embeddings, sinusoids, after attention, in and
  # after the feed-forward, after the last layer; and attention's weights.
  [(Dropout(), 0), (Dropout(hidden=0.5), 6), (Dropout(attention=0.5), 1)],
)
def test_what_the_published_code_drops_is_dropped(dropout, places):
  model = tiny.transformer_xl(depth=3)
  model = dataclasses.replace(model, dropout=dropout)
  params, ids = tiny.large_params(model), tiny.some_ids(2, SEGMENT)

  def read(key):
    at = segment_coords(jnp.zeros_like(ids))
    return model.apply(
      {'params': params}, ids, at, model.initial(2), rngs={'dropout': key}
    )[0]

  program = jax.make_jaxpr(read)(jax.random.key(0)).jaxpr
  assert draws(program) == places


def draws(jaxpr):
  """How often a program draws random bits; a loop's body counts once."""
  count = 0
  for equation in jaxpr.eqns:
    count += equation.primitive.name in ('random_bits', 'threefry2x32')
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      count += draws(inner) if hasattr(inner, 'eqns') else 0
  return count


def test_dropout_of_states_keeps_their_mean():
  """With layers that add nothing, a state is its embedding, dropped twice."""
  model = tiny.transformer_xl(pre_norm=True, dropout=0.25, depth=1)
  params = tiny.large_params(model)
  layers = dict(params['layers'])
  for part, names in (('attention', ['out']), ('ffn', ['out', 'out_bias'])):
    nothing = {name: 0 * layers[part][name] for name in names}
    layers[part] = layers[part] | nothing
  params, ids = params | {'layers': layers}, tiny.some_ids(1, 3)

  def read(rngs):
    at = segment_coords(jnp.zeros_like(ids))
    return model.apply(
      {'params': params}, ids, at, model.initial(1), rngs=rngs
    )[0]

  @tiny.quick_jit
  def both(keys):
    return read({}), jax.vmap(lambda key: read({'dropout': key}))(keys)

  draws = 4000
  want, states = both(jax.random.split(jax.random.key(0), draws))
  kept = states != 0
  np.testing.assert_allclose(kept.mean(), 0.75**2, atol=0.01)
  np.testing.assert_allclose(
    states[kept],
    jnp.broadcast_to(want / 0.75**2, states.shape)[kept],
    rtol=1e-5,
  )
  deviation = np.abs(want) * np.sqrt((1 / 0.75**2 - 1) / draws)
  assert (np.abs(states.mean(axis=0) - want) < 5 * deviation).all()


def test_matrices_begin_with_the_deviation_that_is_asked_for():
  model = tiny.transformer_xl(width=64, ffn_width=256)
  published = tiny.quick_jit(model.init_params)(jax.random.key(0))
  for asked, found in ((None, 1 / 8), (0.5, 0.5), (0.02, 0.02)):
    stack = dataclasses.replace(model.stack, initializer_range=asked)
    other = dataclasses.replace(model, stack=stack)
    params = tiny.quick_jit(other.init_params)(jax.random.key(0))
    matrices = params['layers']['attention'] | params['layers']['ffn']
    for name in ('query', 'key', 'value', 'in', 'out'):
      assert matrices[name].std() == pytest.approx(found, rel=0.05), name
    norm, before = (p['layers']['norm_0'] for p in (params, published))
    assert (norm['scale'] == before['scale']).all()
  with pytest.raises(ValueError, match='initializer_range = 0 is'):
    dataclasses.replace(model.stack, initializer_range=0)

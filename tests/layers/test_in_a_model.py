"""Norms, feed-forward parts and gates inside a model, and around it."""

import dataclasses

import equations
import jax
import jax.numpy as jnp
import numpy as np
import owned
import pytest
import reference
import tiny

from lctx.config import from_json, override, to_json
from lctx.interop import transformer_xl as interop
from lctx.layers.ffn import Geglu, Gelu, Glu, Relu, Swiglu
from lctx.layers.gates import (
  GRUGate,
  HighwayGate,
  InputGate,
  OutputGate,
  Residual,
  SigmoidTanhGate,
)
from lctx.layers.norm import LayerNorm, RMSNorm
from lctx.models.text import Decoder
from lctx.optimizer.axes import is_matrix
from lctx.sharding import rules
from lctx.types import segment_coords

LENGTH, SEGMENT, VOCAB, FFN = 12, 4, 29, 20
CELLS = [
  (InputGate(), Gelu(), RMSNorm(), True),
  (OutputGate(relu=True), Glu(), LayerNorm(1e-3), False),
  (HighwayGate(), Geglu(exact=False), RMSNorm(zero_centred=True), True),
  (SigmoidTanhGate(), Swiglu(), RMSNorm(), False),
  (GRUGate(relu=True), Relu(bias=False), LayerNorm(), True),
  (GRUGate(zero_start=True), Swiglu(bias=True), RMSNorm(), False),
  (Residual(relu=True), Geglu(), RMSNorm(1e-3), True),
]
GATES = {
  Residual: equations.residual,
  InputGate: equations.input_gate,
  OutputGate: equations.output_gate,
  HighwayGate: equations.highway_gate,
  SigmoidTanhGate: equations.sigmoid_tanh_gate,
  GRUGate: equations.gru_gate,
}
FEED = {
  Relu(bias=False): equations.plain(equations.relu),
  Gelu(): equations.plain(equations.gelu),
  Glu(): equations.gated(equations.sigmoid),
  Geglu(): equations.gated(equations.gelu),
  Geglu(exact=False): equations.gated(equations.gelu_tanh),
  Swiglu(): equations.gated(equations.swish),
  Swiglu(bias=True): equations.gated(equations.swish),
}


def model_with(gate=None, ffn=None, norm=None, pre_norm=False, **fields):
  """The tiny model with other parts in its layers."""
  model = tiny.transformer_xl(
    memory_length=LENGTH, pre_norm=pre_norm, ffn_width=FFN, **fields
  )
  given = {'gate': gate, 'ffn': ffn, 'norm': norm}
  given = {name: part for name, part in given.items() if part is not None}
  stack = dataclasses.replace(model.stack, **given)
  return dataclasses.replace(model, stack=stack)


def normed(norm, p, x):
  if isinstance(norm, LayerNorm):
    return equations.layer_norm(p, x, norm.epsilon)
  if norm.zero_centred:
    return equations.zero_centred_rms_norm(p, x, norm.epsilon)
  return equations.rms_norm(p, x, norm.epsilon)


def joined(gate, p, x, y):
  given = GATES[type(gate)](p, x, equations.relu(y) if gate.relu else y)
  return x + p['scale'] * (given - x) if gate.zero_start else given


def one_pass(model, params, ids):
  """Hidden states of one causal pass, from the equations."""
  stack, plain = model.stack, tiny.transformer_xl(memory_length=LENGTH)
  shared = {name: params[name] for name in ('vocabulary', 'once')}
  layers = tiny.large_params(plain)['layers']
  layers = layers | {k: params['layers'][k] for k in ('attention', 'relative')}
  theirs = interop.write(shared | {'layers': layers}, plain)
  theirs = {name: np.asarray(x, np.float64) for name, x in theirs.items()}
  config = {
    'd_model': plain.embed.width, 'n_token': VOCAB, 'd_embed': None,
    'n_head': stack.num_heads, 'd_head': plain.embed.width // stack.num_heads,
    'cutoffs': [], 'div_val': 1, 'attn_type': 0, 'clamp_len': -1,
  }  # fmt: skip
  mask = np.tril(np.ones((1, LENGTH, LENGTH), bool))
  x = reference.embed(theirs, config, ids)
  for layer in range(stack.depth):
    p = owned.wide(jax.tree.map(lambda a, i=layer: a[i], params['layers']))

    def attend(c_BSD, layer=layer):
      return reference._attention(
        theirs, config, layer=layer, c_BSD=c_BSD, mask_BTS=mask
      )

    def feed(x, p=p):
      return FEED[stack.ffn](p['ffn'], x)

    for i, part in enumerate((attend, feed)):
      norm, gate = p[f'norm_{i}'], p.get(f'gate_{i}', {})
      if stack.pre_norm:
        y = part(normed(stack.norm, norm, x))
        x = joined(stack.gate, gate, x, y)
      else:
        x = joined(stack.gate, gate, x, part(x))
        x = normed(stack.norm, norm, x)
  return x


@pytest.mark.parametrize('cell', CELLS, ids=str)
def test_segments_are_one_pass_of_the_equations(cell, close):
  model = model_with(*cell)
  params = tiny.large_params(model)
  ids = tiny.some_ids(2, LENGTH, VOCAB)
  got, _ = tiny.loop(model, params, ids, [SEGMENT] * (LENGTH // SEGMENT))
  close(got, one_pass(model, params, np.asarray(ids)))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_layers_that_start_as_nothing_leave_the_embedding_alone(dtype):
  gate = GRUGate(zero_start=True)
  model = model_with(gate, Swiglu(), RMSNorm(), pre_norm=True)
  compute = dataclasses.replace(model.compute, dtype=dtype)
  model = dataclasses.replace(model, compute=compute)
  params = tiny.large_params(model)
  layers = dict(params['layers'])
  for name in ('gate_0', 'gate_1'):
    layers[name] = layers[name] | {'scale': 0 * layers[name]['scale']}
  params = params | {'layers': layers}
  ids = tiny.some_ids(2, LENGTH, VOCAB)
  got, _ = tiny.loop(model, params, ids, [LENGTH])
  table = params['vocabulary']['table_0'].astype(dtype)
  factor = jnp.asarray(model.embed.width**0.5, dtype)
  assert jnp.array_equal(got, table[ids] * factor)


def test_every_parameter_of_a_gated_model_learns():
  gate = GRUGate(zero_start=True)
  model = model_with(gate, Geglu(), RMSNorm(zero_centred=True), pre_norm=True)
  params, ids = tiny.large_params(model), tiny.some_ids(2, SEGMENT, VOCAB)

  @tiny.quick_jit
  def gradient(params):
    def loss(params):
      at = segment_coords(jnp.zeros_like(ids))
      hidden, _, _ = model.apply({'params': params}, ids, at, model.initial(2))
      return model.apply({'params': params}, hidden, ids, method='nll').sum()

    return jax.grad(loss)(params)

  def check(path, leaf):
    assert (leaf != 0).any(axis=range(1, leaf.ndim)).all(), path

  jax.tree_util.tree_map_with_path(check, gradient(params)['layers'])


def test_matrices_are_decayed_and_biases_and_scales_are_not():
  axes = model_with(GRUGate(zero_start=True), Swiglu(bias=True)).axes()
  layers = axes['layers']
  gate = layers['gate_0']
  assert gate == layers['gate_1']
  vectors = {name for name in gate if not is_matrix(gate[name])}
  assert vectors == {'bias', 'scale'} and len(gate) == 2 + 6
  found = {name for name in layers['ffn'] if is_matrix(layers['ffn'][name])}
  assert found == {'in', 'gate', 'out'} and len(layers['ffn']) == 2 * 3


def test_every_axis_has_a_place_on_the_mesh():
  for gate in (SigmoidTanhGate(zero_start=True), GRUGate()):
    model = model_with(gate, Geglu(), RMSNorm())
    names = jax.tree.leaves(model.axes())
    assert set(names) <= set(rules.TABLE)


def test_a_plain_sum_has_no_parameters():
  layers = model_with().axes()['layers']
  assert not [name for name in layers if name.startswith('gate')]


def test_parts_of_a_layer_are_chosen_by_name_and_survive_json():
  model = model_with()
  changed = override(
    model,
    {
      'stack.norm': 'rmsnorm',
      'stack.norm.zero_centred': 'true',
      'stack.ffn': 'geglu',
      'stack.ffn.exact': 'false',
      'stack.gate': 'grugate',
      'stack.gate.zero_start': 'true',
    },
  )
  norm, gate = RMSNorm(zero_centred=True), GRUGate(zero_start=True)
  assert changed == model_with(gate, Geglu(exact=False), norm)
  assert from_json(to_json(changed), Decoder) == changed


def test_a_config_from_before_these_parts_reads_as_what_it_was():
  model = model_with()
  data = to_json(model)
  for name in ('norm', 'ffn', 'gate'):
    del data['stack'][name]
  assert from_json(data, Decoder) == model


@pytest.mark.parametrize(
  'field, value, words',
  [
    ('stack.norm', 'rmsnrom', ['stack.norm = ', 'Did you mean RMSNorm']),
    ('stack.norm.epsilon', '0', ['stack.norm (LayerNorm)', 'epsilon = 0.0']),
    ('stack.ffn', 'gatedfeedforward', ['stack.ffn = ', 'Geglu, Gelu, Glu']),
    ('stack.gate', 'biasedgate', ['stack.gate = ', 'GRUGate, HighwayGate']),
    ('stack.gate.bias', '1', ['stack.gate.bias does not exist', 'Residual']),
  ],
)
def test_an_unfit_part_or_value_is_named(field, value, words):
  with pytest.raises(ValueError) as error:
    override(model_with(), {field: value})
  for word in words:
    assert word in str(error.value)


@pytest.mark.parametrize(
  'parts', [{'norm': RMSNorm()}, {'ffn': Glu()}, {'gate': InputGate()}]
)
def test_official_files_hold_no_other_parts(parts):
  model, name = model_with(**parts), next(iter(parts))
  with pytest.raises(ValueError, match=rf'model\.stack\.{name} = '):
    interop.write(tiny.large_params(model), model)
  with pytest.raises(ValueError, match=rf'model\.stack\.{name} = '):
    interop.read({}, model)

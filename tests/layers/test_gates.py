"""Gates against their equations, and that they can start as nothing."""

import dataclasses

import equations
import jax
import jax.numpy as jnp
import numpy as np
import owned
import pytest
import tiny
from jax.test_util import check_grads

from lctx.layers.gates import (
  GRUGate,
  HighwayGate,
  InputGate,
  OutputGate,
  Residual,
  SigmoidTanhGate,
)
from lctx.layers.parameters import Owner

WIDTH = 6
GATES = {
  Residual: equations.residual,
  InputGate: equations.input_gate,
  OutputGate: equations.output_gate,
  HighwayGate: equations.highway_gate,
  SigmoidTanhGate: equations.sigmoid_tanh_gate,
  GRUGate: equations.gru_gate,
}
BIASED = [OutputGate, HighwayGate, SigmoidTanhGate, GRUGate]
kinds = pytest.mark.parametrize('kind', GATES)


def applied(gate, params, x, y):
  return Owner(gate).apply({'params': params}, x, y)


joined = tiny.quick_jit(applied, static_argnums=0)


def stream(dtype=jnp.float32, scale=1.0):
  x = owned.states(2, 3, WIDTH, dtype=dtype)
  return x, owned.states(2, 3, WIDTH, seed=2, scale=scale, dtype=dtype)


def started(gate, x, y):
  """Parameters as training begins, but large matrices."""
  large = owned.parameters(Owner(gate), x, y)
  return large | {'scale': jnp.zeros_like(large['scale'])}


@kinds
@pytest.mark.parametrize('relu', [False, True])
def test_a_gate_is_its_equation(kind, relu, close):
  gate, (x, y) = kind(relu=relu), stream()
  params = owned.parameters(Owner(gate), x, y)
  branch = equations.relu(owned.wide(y)) if relu else owned.wide(y)
  want = GATES[kind](owned.wide(params), owned.wide(x), branch)
  close(joined(gate, params, x, y), want)


def test_no_gate_is_the_sum_to_the_last_bit():
  for dtype in (jnp.float32, jnp.bfloat16):
    x, y = stream(dtype)
    assert jnp.array_equal(joined(Residual(), {}, x, y), x + y)


@kinds
def test_a_scale_blends_x_and_what_the_gate_gives(kind, close):
  gate, (x, y) = kind(zero_start=True), stream()
  params = owned.parameters(Owner(gate), x, y)
  p = owned.wide(params)
  given = GATES[kind](p, owned.wide(x), owned.wide(y))
  want = (1 - p['scale']) * owned.wide(x) + p['scale'] * given
  close(joined(gate, params, x, y), want)


@kinds
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('scale', [1.0, 1e30])
def test_a_zero_start_is_x_to_the_last_bit_whatever_the_branch_says(
  kind, dtype, scale
):
  gate, (x, y) = kind(zero_start=True, relu=True), stream(dtype, scale)
  got = joined(gate, started(gate, x, y), x, y)
  assert got.dtype == dtype
  assert jnp.array_equal(got, x)


@kinds
def test_a_zero_start_is_how_training_begins(kind):
  gate, (x, y) = kind(zero_start=True), stream()
  got, _ = Owner(gate).init_with_output(jax.random.key(0), x, y)
  assert jnp.array_equal(got, x)


@kinds
def test_a_zero_start_learns_first_its_scale_and_then_all_else(kind):
  gate, (x, y) = kind(zero_start=True), stream()

  @tiny.quick_jit
  def gradient(params):
    def loss(params, y):
      weights = 1 + jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape)
      return (weights * applied(gate, params, x, y)).sum()

    return jax.grad(loss, argnums=(0, 1))(params, y)

  params = started(gate, x, y)
  first, _ = gradient(params)
  assert (first['scale'] != 0).all()
  params['scale'] -= 1e-3 * first['scale']
  then, to_branch = gradient(params)
  for name, value in then.items():
    assert (value != 0).all(), name
  assert (to_branch != 0).all()


@kinds
def test_gradients_are_those_of_finite_differences(kind):
  gate = kind(zero_start=True)
  with jax.enable_x64(True):
    x, y = stream(jnp.float64)
    params = owned.parameters(Owner(gate), x, y)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    check_grads(
      lambda params, x, y: applied(gate, params, x, y),
      (params, x, y),
      order=1,
      modes=['rev'],
    )


@pytest.mark.parametrize('kind', BIASED)
def test_a_bias_starts_as_published_and_the_larger_the_nearer_to_x(kind):
  x, y = stream()
  apart = []
  for gate in (kind(bias=-4.0), kind(), kind(bias=8.0)):
    made, variables = Owner(gate).init_with_output(jax.random.key(0), x, y)
    bias = variables['params']['bias'].value
    assert jnp.array_equal(bias, jnp.full(WIDTH, gate.bias))
    apart.append(float(jnp.abs(made - x).max()))
  assert apart[0] > apart[1] > apart[2]
  assert kind().bias == (2 if kind is GRUGate else 1)


@kinds
def test_a_gate_has_the_matrices_it_counts(kind):
  gate, (x, y) = kind(zero_start=True), stream()
  axes = owned.axes(Owner(gate), x, y)
  matrices = [names for names in axes.values() if len(names) == 2]
  assert matrices == [('width', 'gate')] * kind.matrices
  vectors = {k: names for k, names in axes.items() if len(names) == 1}
  biased = {'bias': ('gate',)} if kind in BIASED else {}
  assert vectors == {'scale': ('width',)} | biased


@pytest.mark.parametrize('kind', BIASED)
@pytest.mark.parametrize('bias', [21.0, -21.0, float('inf'), float('nan')])
def test_a_bias_that_shuts_a_gate_for_good_is_named(kind, bias):
  with pytest.raises(ValueError, match=rf'model\.stack\.gate\.bias = {bias}'):
    kind(bias=bias)


def test_what_a_gru_gate_multiplies_before_it_resets():
  """r before U, not after it as in the cells of libraries."""
  x, y = stream()
  params = owned.parameters(Owner(GRUGate()), x, y)
  p, x_64, y_64 = owned.wide(params), owned.wide(x), owned.wide(y)
  r = equations.sigmoid(y_64 @ p['reset_y'] + x_64 @ p['reset_x'])
  z = equations.sigmoid(y_64 @ p['update_y'] + x_64 @ p['update_x'] - p['bias'])
  late = np.tanh(y_64 @ p['candidate_y'] + r * (x_64 @ p['candidate_x']))
  cell = (1 - z) * x_64 + z * late
  assert np.abs(joined(GRUGate(), params, x, y) - cell).max() > 1e-2


def test_gates_are_compared_by_what_they_hold():
  assert GRUGate() == GRUGate(bias=2.0) != GRUGate(zero_start=True)
  assert hash(GRUGate()) == hash(dataclasses.replace(GRUGate()))

"""Norms against their equations, over states and over heads."""

import equations
import jax
import jax.numpy as jnp
import numpy as np
import owned
import pytest
import tiny
from jax.test_util import check_grads

from lctx.layers.norm import LayerNorm, RMSNorm
from lctx.layers.parameters import Owner

NORMS = {
  LayerNorm(): equations.layer_norm,
  LayerNorm(epsilon=0.5): equations.layer_norm,
  RMSNorm(): equations.rms_norm,
  RMSNorm(epsilon=0.5): equations.rms_norm,
  RMSNorm(zero_centred=True): equations.zero_centred_rms_norm,
}
norms = pytest.mark.parametrize('norm', NORMS, ids=str)
PLACES = {'width': (2, 3, 10), 'head_width': (2, 3, 4, 6)}


def applied(norm, params, x, axis='width'):
  return Owner(norm).apply({'params': params}, x, axis)


normed = tiny.quick_jit(applied, static_argnums=(0, 3))


@norms
@pytest.mark.parametrize('axis', PLACES)
def test_a_norm_is_its_equation(norm, axis, close):
  x = owned.states(*PLACES[axis])
  params = owned.parameters(Owner(norm), x, axis)
  want = NORMS[norm](owned.wide(params), owned.wide(x), norm.epsilon)
  close(normed(norm, params, x, axis), want)


@norms
def test_short_numbers_are_normed_in_float32_and_rounded_once(norm, close):
  # Their squares sum to 3e9, of which bfloat16 keeps three digits.
  x = owned.states(2, 3, 300, scale=3000, dtype=jnp.bfloat16)
  params = owned.parameters(Owner(norm), x)
  got = normed(norm, params, x)
  assert got.dtype == jnp.bfloat16
  want = NORMS[norm](owned.wide(params), owned.wide(x), norm.epsilon)
  want = np.float32(jnp.asarray(want, jnp.bfloat16))
  got = np.float32(got)
  assert (got == want).mean() > 0.99  # the rest lie between two numbers
  np.testing.assert_allclose(got, want, rtol=2**-7)


@pytest.mark.parametrize('axis', PLACES)
def test_a_scale_is_as_long_as_what_is_normed_and_heads_share_it(axis):
  x = owned.states(*PLACES[axis])
  for norm, names in ((LayerNorm(), {'scale', 'bias'}), (RMSNorm(), {'scale'})):
    params = owned.parameters(Owner(norm), x, axis)
    assert params.keys() == names
    assert {value.shape for value in params.values()} == {x.shape[-1:]}
    assert set(owned.axes(Owner(norm), x, axis).values()) == {(axis,)}


def test_a_zero_centred_norm_starts_as_the_other():
  x = owned.states(2, 3, 10)
  plain, centred = (
    Owner(RMSNorm(zero_centred=way)).init_with_output(jax.random.key(0), x)
    for way in (False, True)
  )
  assert jnp.array_equal(plain[0], centred[0])
  assert (centred[1]['params']['scale'].value == 0).all()


@norms
@pytest.mark.parametrize('size', [1.8e19, 1e25, np.inf])
def test_what_overflows_is_no_number_and_not_zero(norm, size):
  """The square of 1.8e19 is a float32, the sum of many is none."""
  x = owned.states(2, 3, 300).at[1].multiply(size).at[1, :, ::2].add(size)
  params = owned.parameters(Owner(norm), x)
  got = normed(norm, params, x)
  assert np.isfinite(got[0]).all() and np.isnan(got[1]).all()


def test_a_norm_does_not_feel_the_size_of_what_it_norms(close):
  x = owned.states(2, 3, 10)
  for norm in (LayerNorm(1e-12), RMSNorm(1e-12)):
    params = owned.parameters(Owner(norm), x)
    close(normed(norm, params, 1000 * x), normed(norm, params, x))


@norms
def test_gradients_are_those_of_finite_differences(norm):
  x = owned.states(1, 2, 5)
  params = owned.parameters(Owner(norm), x)
  check_grads(
    lambda params, x: applied(norm, params, x),
    (params, x),
    order=1,
    modes=['rev'],
    eps=1e-2,
    rtol=0.02,
    atol=0.02,
  )


@pytest.mark.parametrize('kind', [LayerNorm, RMSNorm])
@pytest.mark.parametrize('epsilon', [0.0, -1e-5, float('nan')])
def test_an_epsilon_that_cannot_be_is_named(kind, epsilon):
  with pytest.raises(ValueError, match=f'^epsilon = {epsilon} of'):
    kind(epsilon=epsilon)

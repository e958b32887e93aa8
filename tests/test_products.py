"""The products of attention are einsums, and so are their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx import products

B, T, S, N, H, P = 2, 3, 5, 4, 6, 7
CASES = {
  'met': ('btnh,bsnh->nbts', (B, T, N, H), (B, S, N, H)),
  'met_by_all': ('btnh,pnh->nbtp', (B, T, N, H), (P, N, H)),
  'weighed': ('nbts,bsnh->nbth', (N, B, T, S), (B, S, N, H)),
}


@pytest.mark.parametrize('name', CASES)
def test_a_product_and_its_gradients_are_those_of_its_einsum(name, close):
  letters, *shapes = CASES[name]
  random = np.random.default_rng(0)
  normal = random.standard_normal
  arrays = [jnp.asarray(normal(shape), jnp.float32) for shape in shapes]
  product = getattr(products, name)
  shape = jax.eval_shape(product, *arrays).shape
  weight = jnp.asarray(normal(shape), jnp.float32)

  def value_and_gradients(function):
    def loss(a, b):
      return (function(a, b) * weight).sum()

    return tiny.quick_jit(
      lambda a, b: (function(a, b), jax.grad(loss, (0, 1))(a, b))
    )(*arrays)

  want = value_and_gradients(lambda a, b: jnp.einsum(letters, a, b))
  jax.tree.map(close, value_and_gradients(product), want)


@pytest.mark.parametrize('name', CASES)
def test_short_numbers_meet_in_float32_and_their_gradients_stay_short(name):
  _, *shapes = CASES[name]
  arrays = [jnp.ones(shape, jnp.bfloat16) for shape in shapes]
  product = getattr(products, name)
  found = jax.eval_shape(product, *arrays)
  assert found.dtype == jnp.float32
  grads = jax.eval_shape(
    jax.grad(lambda *a: product(*a).sum(), (0, 1)), *arrays
  )
  assert {g.dtype for g in grads} == {jnp.dtype('bfloat16')}

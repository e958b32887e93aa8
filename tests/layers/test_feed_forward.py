"""Feed-forward parts against their equations."""

import equations
import jax
import jax.numpy as jnp
import numpy as np
import owned
import pytest
import tiny
from jax.test_util import check_grads

from lctx.layers.ffn import Feed, Geglu, Gelu, Glu, Relu, Swiglu

HIDDEN = 7
KINDS = {
  Relu(): equations.plain(equations.relu),
  Relu(bias=False): equations.plain(equations.relu),
  Gelu(): equations.plain(equations.gelu),
  Gelu(exact=False): equations.plain(equations.gelu_tanh),
  Glu(): equations.gated(equations.sigmoid),
  Glu(bias=True): equations.gated(equations.sigmoid),
  Geglu(): equations.gated(equations.gelu),
  Geglu(exact=False): equations.gated(equations.gelu_tanh),
  Swiglu(): equations.gated(equations.swish),
}
kinds = pytest.mark.parametrize('kind', KINDS, ids=str)


def applied(kind, params, x):
  return Feed(kind, HIDDEN, 0.0).apply({'params': params}, x)


fed = tiny.quick_jit(applied, static_argnums=0)


@kinds
def test_a_feed_forward_part_is_its_equation(kind, close):
  x = owned.states(2, 3, 5)
  params = owned.parameters(Feed(kind, HIDDEN, 0.0), x)
  got = fed(kind, params, x)
  close(got, KINDS[kind](owned.wide(params), owned.wide(x)))


def test_exact_and_approximate_gelu_are_told_apart():
  """The oracle is fine enough for it: they differ by 5e-4."""
  h = np.linspace(-3, 3, 61)
  apart = np.abs(equations.gelu(h) - equations.gelu_tanh(h)).max()
  assert 3e-4 < apart < 6e-4


@kinds
def test_only_what_is_published_has_biases_and_every_matrix_knows_its_axes(
  kind,
):
  names = ['in', 'gate', 'out'] if kind.matrices == 3 else ['in', 'out']
  want = dict.fromkeys(names, ('width', 'hidden'))
  want['out'] = ('hidden', 'width')
  if kind.bias:
    want |= {f'{name}_bias': want[name][1:] for name in names}
  x = owned.states(2, 3, 5)
  assert owned.axes(Feed(kind, HIDDEN, 0.0), x) == want
  for name, value in owned.parameters(Feed(kind, HIDDEN, 0.0), x).items():
    sizes = {'width': 5, 'hidden': HIDDEN}
    assert value.shape == tuple(sizes[axis] for axis in want[name])


def test_published_defaults():
  assert [kind().bias for kind in (Relu, Gelu)] == [True, True]
  assert [kind().bias for kind in (Glu, Geglu, Swiglu)] == [False] * 3


@pytest.mark.parametrize('kind', [Gelu(), Swiglu()], ids=str)
def test_dropout_acts_on_the_hidden_units_and_on_what_comes_out(kind):
  """Half of both are zero; those of the first are seen in the kept of both."""
  x = jnp.ones((1, 2000, 1))
  feed = Feed(kind, 1, 0.5)
  params = jax.tree.map(jnp.ones_like, owned.parameters(feed, x))
  key = jax.random.key(0)

  def read(rngs):
    y = feed.apply({'params': params}, x, rngs=rngs) - 1.0 * kind.bias
    return np.asarray(y)

  whole, dropped = read({})[0, 0, 0], read({'dropout': key})
  if kind.bias:  # kept: twice the output bias, less the one above
    parts = {-1.0: 0.5, 1.0: 0.25, 4 * whole + 1: 0.25}
  else:
    parts = {0.0: 0.75, 4 * whole: 0.25}
  for value, share in parts.items():
    found = np.isclose(dropped, value, rtol=1e-5).mean()
    np.testing.assert_allclose(found, share, atol=0.04)


@kinds
def test_gradients_are_those_of_finite_differences(kind):
  with jax.enable_x64(True):
    x = owned.states(1, 2, 3, dtype=jnp.float64)
    params = owned.parameters(Feed(kind, HIDDEN, 0.0), x)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    check_grads(
      lambda params, x: applied(kind, params, x),
      (params, x),
      order=1,
      modes=['rev'],
    )

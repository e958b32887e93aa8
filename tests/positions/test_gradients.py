"""Gradients of scores that have parameters are finite differences, float64."""

import dataclasses

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from test_grid import model_ahead, model_of, scores_of

from lctx.kernels.dense import Dense
from lctx.kernels.source import Source
from lctx.types import segment_coords

CASES = {
  'xl': ('xl', 'plain'),
  'xl, clamped': ('xl, clamped', 'plain'),
  'learned relative': ('learned relative', 'plain'),
  't5': ('t5, both ways', 'plain'),
  'span': ('xl', 'adaptive span'),
  'adaptive scores': ('learned relative', 'adaptive scores'),
  'capped': ('t5, both ways', 'soft-cap, one key head'),
}


@pytest.mark.parametrize('case', CASES)
def test_gradients_of_the_definition_are_finite_differences(case):
  position, score = CASES[case]
  kernel = Dense()  # whose gradients those of all others are
  model = model_of(position, 'window, two sides', score, kernel)
  sizes = dataclasses.replace(
    model.sizes(grid.LENGTH),
    distances=grid.LENGTH,
    ahead=model_ahead(model),
    dtype=jnp.float64,
  )
  at = segment_coords(jnp.zeros((1, grid.LENGTH), jnp.int32))
  params, random = {}, np.random.default_rng(0)
  with jax.enable_x64(True):
    scores_of(model, sizes, params)
    params = {name: np.float64(value) for name, value in params.items()}
    if 'span' in params:  # away from where its ramp has a corner
      params['span'] = np.array([0.27, 0.14])
    arrays = [
      random.standard_normal((1, grid.LENGTH, heads, sizes.head_width))
      for heads in (sizes.num_heads, sizes.key_heads, sizes.key_heads)
    ]

    def attend(params, arrays):
      scores = scores_of(model, sizes, dict(params))
      return kernel((Source(*arrays, at, at, scores, model.pattern),), None)

    assert params and attend(params, arrays).dtype == jnp.float64
    check_grads(jax.jit(attend), (params, arrays), 1, ['rev'], 1e-6, 1e-6, 1e-5)

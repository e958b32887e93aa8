"""Every position, pattern, score and kernel together obeys the same laws.

A cell is a model of two layers. Read by segments with this kernel, gradients
flowing through all of them, it gives the losses and gradients of one pass by
the definition; token by token, the same losses again. Patterns that look
ahead have one segment and no decoding: a token would see what is not there.
"""

import dataclasses
import functools

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.generation import decode
from lctx.kernels.dense import Dense
from lctx.models.parts import Compute
from lctx.models.segments import scan_segments, split
from lctx.types import segment_coords

ROWS = 2


def model_of(position, pattern, score, kernel):
  model = tiny.transformer_xl(
    num_heads=grid.HEADS, memory_length=grid.LENGTH, vocab=11
  )
  return dataclasses.replace(
    model,
    position=grid.POSITIONS[position],
    pattern=grid.PATTERNS[pattern],
    heads=grid.SCORES[score],
    compute=Compute(kernel=kernel),
  )


@functools.partial(tiny.quick_jit, static_argnums=(0, 1))
def losses(model, segment, params, ids, document):
  """Nats of every token, penalties, and the gradient of their sum."""

  def loss(params):
    def one(carry, inputs):
      tokens, targets, document = inputs
      at = segment_coords(document)
      given = {'params': params}
      hidden, carry, penalty = model.apply(given, tokens, at, carry)
      nll = model.apply(given, hidden, targets, method='nll')
      return carry, (nll, penalty)

    cut = split((ids[:, :-1], ids[:, 1:], document), segment)
    count = len(cut[0])
    _, (nll, penalty) = scan_segments(
      one, model.initial(ROWS), cut, gradient_segments=count - 1
    )
    return nll.sum() + penalty.mean(), jnp.concatenate(list(nll), axis=1)

  return jax.value_and_grad(loss, has_aux=True)(params)


def check(cell, close):
  *parts, kernel = cell
  model = model_of(*parts, grid.KERNELS[kernel])
  whole = model_of(*parts, Dense())
  params = tiny.large_params(model)
  ids = tiny.some_ids(ROWS, grid.LENGTH + 1, vocab=11)
  document = jnp.zeros((ROWS, grid.LENGTH), jnp.int32).at[1, 5:].set(1)
  ahead = grid.looks_ahead(parts[1])
  segment = grid.LENGTH if ahead else grid.SEGMENT
  (_, nll), grads = losses(model, segment, params, ids, document)
  (_, want), wanted = losses(whole, grid.LENGTH, params, ids, document)
  close(nll, want)
  jax.tree.map(close, grads, wanted)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads)), 'unused'
  if not ahead:
    alone = decode.score(model, params, np.asarray(ids[0]), grid.SEGMENT)
    close(alone, nll[0], 1e-4)  # as the issue of decoding allows


@pytest.mark.parametrize('cell', grid.pairs(), ids=' | '.join)
def test_any_two_parts_work_together(cell, close):
  check(cell, close)

"""Every memory with every position and every pattern obeys the same laws.

Read by a scan over segments, with gradients through all of them, every
parameter has a gradient; a document that begins inside a segment gives what it
gives alone; and token by token, as generation reads, a model gives the same
losses. Patterns that look ahead have no decoding: a token would see what is not
there yet.
"""

import dataclasses
import functools
import re

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.generation.reading import begin
from lctx.models.segments import scan_segments, split
from lctx.types import EMPTY, segment_coords

ROWS, BEGINS = 2, 7
DOCUMENT = np.zeros((ROWS, grid.LENGTH), np.int32)
DOCUMENT[1, BEGINS:] = 1
ALONE = np.where(DOCUMENT == 1, 1, EMPTY)
KINDS = [name for name in grid.KINDS if name != 't5']  # both ways has its terms
OTHERS = [name for name in grid.MEMORIES if name != 'xl']  # test_grid has that


def model_of(position, pattern, memory):
  model = tiny.transformer_xl(num_heads=grid.HEADS, vocab=11)
  return dataclasses.replace(
    model,
    memory=grid.MEMORIES[memory],
    position=grid.POSITIONS[position],
    pattern=grid.PATTERNS[pattern],
  )


def segment_nll(model, params, carry, tokens, targets, document):
  given, at = {'params': params}, segment_coords(document)
  hidden, carry, penalty = model.apply(given, tokens, at, carry)
  return carry, (
    model.apply(given, hidden, targets, method='nll'),
    penalty,
  )


@functools.partial(tiny.quick_jit, static_argnums=0)
def scanned(model, params, ids, document):
  """Nats of every token, and the gradient of all that is trained."""

  def loss(params):
    cut = split((ids[:, :-1], ids[:, 1:], document), grid.SEGMENT)
    _, (nll, penalty) = scan_segments(
      lambda carry, x: segment_nll(model, params, carry, *x),
      model.initial(ROWS),
      cut,
      gradient_segments=grid.SEGMENTS - 1,
    )
    return nll.sum() + penalty.sum(), jnp.concatenate([*nll], axis=1)

  return jax.value_and_grad(loss, has_aux=True)(params)


def remember(cell, close):
  model = model_of(*cell)
  params = tiny.large_params(model)
  ids = tiny.some_ids(ROWS, grid.LENGTH + 1, vocab=11)
  (_, nll), grads = scanned(model, params, ids, jnp.asarray(DOCUMENT))
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  unused = set()
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    by_layer = g if name.startswith('layers') else g[None]
    parts = [np.abs(x).max() for x in by_layer]
    unused |= {f'{name} {i}' for i, x in enumerate(parts) if not x > 0}
  if cell[2] == 'melodi':  # nothing reads the summary of the last layer
    last = re.compile(r'layers/memory_summary_\w+ 1')
    unused = {name for name in unused if not last.fullmatch(name)}
  if cell[2] == 'gated delta':  # its heads see no token, so no position counts
    unused = {name for name in unused if not name.startswith('once/')}
  assert not unused
  (_, alone), _ = scanned(model, params, ids, jnp.asarray(ALONE))
  close(nll[1, BEGINS:], alone[1, BEGINS:], 1e-5)
  if not grid.looks_ahead(cell[1]):
    begun = begin(model, params, 1, grid.SEGMENT)
    close(tiny.decoded(*begun, ids[:1]), nll[:1], 1e-4)


def pytest_generate_tests(metafunc):
  """The suite has kinds of positions, `pytest -m grid` every two entries."""
  everything = 'grid' in metafunc.config.option.markexpr.split()
  cells = {
    'test_any_memory_serves_any_position_and_pattern': lambda: grid.with_memory(
      grid.memory_cells(KINDS, memories=OTHERS)
    ),
    'test_every_memory_remembers': lambda: (
      grid.with_memory(grid.memory_cells()) if everything else []
    ),
  }[metafunc.function.__name__]()
  metafunc.parametrize('cell', cells, ids=' | '.join)


def test_any_memory_serves_any_position_and_pattern(cell, close):
  remember(cell, close)


@pytest.mark.grid
def test_every_memory_remembers(cell, close):
  remember(cell, close)

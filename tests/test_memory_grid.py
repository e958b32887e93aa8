"""Every memory with every position and every pattern obeys the same laws.

Read by a scan over segments, with gradients through all of them, every
parameter has a gradient; a document that begins inside a segment gives what it
gives alone; and token by token, as generation reads, a model gives the same
losses. Patterns that look ahead have no decoding: a token would see what is not
there yet.

The suite has every memory with every pattern so, and with every position whose
terms of logits differ in more than numbers. With all other positions it is
read, resets included, without gradients; those are decoded with XL's cache. Two
memories in one model meet kinds of positions. `pytest -m grid` has all of all.
"""

import dataclasses
import re

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.generation.reading import begin
from lctx.memory import OnLayers, Together
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


def losses(model, params, ids, document):
  """All that is made small, and nats of every token, by a scan."""
  cut = split((ids[:, :-1], ids[:, 1:], document), grid.SEGMENT)
  _, (nll, penalty) = scan_segments(
    lambda carry, x: segment_nll(model, params, carry, *x),
    model.initial(ROWS),
    cut,
    gradient_segments=grid.SEGMENTS - 1,
  )
  return nll.sum() + penalty.sum(), jnp.concatenate([*nll], axis=1)


scanned = tiny.quick_jit(losses, static_argnums=0)
taught = tiny.quick_jit(
  jax.value_and_grad(losses, argnums=1, has_aux=True), static_argnums=0
)


def told(cell, program):
  """What a program gives of both documents, and of the second alone."""
  model = model_of(*cell)
  params = tiny.large_params(model)
  ids = tiny.some_ids(ROWS, grid.LENGTH + 1, vocab=11)
  both, alone = map(jnp.asarray, (DOCUMENT, ALONE))
  return (program(model, params, ids, x) for x in (both, alone))


def resets(nll, alone, close):
  """A reset row is a fresh run."""
  close(nll[1, BEGINS:], alone[1, BEGINS:], 1e-5)


def decodes(cell, nll, close):
  """Token by token it gives what a scan does."""
  model = model_of(*cell)
  begun = begin(model, tiny.large_params(model), 1, grid.SEGMENT)
  ids = tiny.some_ids(ROWS, grid.LENGTH + 1, vocab=11)
  close(tiny.decoded(*begun, ids[:1]), nll[:1], 1e-4)


def remember(cell, close):
  ((_, nll), grads), ((_, alone), _) = told(cell, taught)
  resets(nll, alone, close)
  if not grid.looks_ahead(cell[1]):
    decodes(cell, nll, close)
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
  assert not unused


def is_two(name):
  return isinstance(grid.MEMORIES[name], (Together, OnLayers))


def of_suite():
  """Cells to remember, and those to read, of which each has a pair of its own.

  All positions and all patterns meet all memories; the first are those that
  bring a pattern, or a position whose terms differ in more than numbers.
  """
  positions = [*KINDS, *(x for x in grid.POSITIONS if x not in KINDS)]
  alone = [name for name in OTHERS if not is_two(name)]
  cover = grid.with_memory(grid.memory_cells(positions, memories=alone))
  two = grid.memory_cells(KINDS, ['causal'], filter(is_two, OTHERS))
  met, whole = set(), two
  for position, pattern, memory in cover:
    if (pattern, memory) not in met or position in KINDS:
      whole.append((position, pattern, memory))
    met.add((pattern, memory))
  rest = [cell for cell in cover if cell not in whole]
  unread = [x for x in grid.POSITIONS if x not in grid.READ]
  return whole, rest + [(position, 'causal', 'xl') for position in unread]


def pytest_generate_tests(metafunc):
  """What the suite has; `pytest -m grid` every two entries."""
  everything = 'grid' in metafunc.config.option.markexpr.split()
  cells = {
    'test_any_memory_serves_any_position_and_pattern': lambda: of_suite()[0],
    'test_every_position_is_read_with_every_memory': lambda: of_suite()[1],
    'test_every_memory_remembers': lambda: (
      grid.with_memory(grid.memory_cells()) if everything else []
    ),
  }[metafunc.function.__name__]()
  metafunc.parametrize('cell', cells, ids=' | '.join)


def test_any_memory_serves_any_position_and_pattern(cell, close):
  remember(cell, close)


def test_every_position_is_read_with_every_memory(cell, close):
  (_, nll), (_, alone) = told(cell, scanned)
  resets(nll, alone, close)
  if cell[2] not in OTHERS:
    decodes(cell, nll, close)


@pytest.mark.grid
def test_every_memory_remembers(cell, close):
  remember(cell, close)

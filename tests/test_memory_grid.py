"""Every memory with every position and every pattern obeys the same laws.

Read by a scan over segments, with gradients through all of them, every
parameter has a gradient; a document that begins inside a segment gives what it
gives alone; and token by token, as generation reads, a model gives the same
losses. Patterns that look ahead have no decoding: a token would see what is not
there yet.

The suite has every memory with every pattern, and with every position or every
kind of them. Six memories meet these together, in one model that has them all,
and alone take kinds of positions in turn, as do two in one model. Five say
themselves what is seen and cannot be joined: each has one position of every
kind, and the others meet one of the five. `pytest -m grid` has all pairs.

RoPE's stretches differ in the angles of their scores, so what their models make
of these is given to the program of plain RoPE. With XL's cache each has its own
program, which makes them. Sinusoids are given to the program of learned
positions as its table.
"""

import dataclasses
import functools
import itertools
import re

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lctx.generation.reading import Reader, unread
from lctx.memory import OnLayers, Together
from lctx.models.segments import scan_segments, split
from lctx.patterns import Causal
from lctx.positions import Plain, Rope, Sinusoidal
from lctx.types import EMPTY, segment_coords

ROWS, BEGINS = 2, 7
DOCUMENT = np.zeros((ROWS, grid.LENGTH), np.int32)
DOCUMENT[1, BEGINS:] = 1
ALONE = np.where(DOCUMENT == 1, 1, EMPTY)
KINDS = [name for name in grid.KINDS if name != 't5']  # both ways has its terms
UNREAD = [name for name in grid.POSITIONS if name not in grid.READ]
OTHERS = [name for name in grid.MEMORIES if name != 'xl']  # test_grid has that
OF_EVERY_KIND = 'learned', 'sinusoidal', 'xl', 'rope'
# In which layers differ, or one reads what the one below made. Others have one:
# of two layers each is in the laws, and each kind of position in `test_grid`.
OF_TWO_LAYERS = 'melodi', 'xl, and a state cell above'


def model_of(position, pattern, memory):
  depth = 2 if memory in OF_TWO_LAYERS else 1
  model = tiny.transformer_xl(depth, num_heads=grid.HEADS, vocab=11)
  return dataclasses.replace(
    model,
    memory=grid.memory_of(position, pattern, memory),
    position=grid.POSITIONS[position],
    pattern=grid.PATTERNS[pattern],
  )


@functools.partial(tiny.quick_jit, static_argnums=0)
def scored(model, params):
  return model.scores(params, grid.SEGMENT)


def params_of(model):
  """Those of one pattern are those of all."""
  return tiny.large_params(dataclasses.replace(model, pattern=Causal()))


def shared(cell):
  """A model that has the program of the cell's, its parameters, and scores.

  The scores are the cell's where the model makes others, else None.
  """
  model = model_of(*cell)
  if isinstance(model.position, Sinusoidal):
    learned = model_of('learned', *cell[1:])
    params = params_of(learned)
    at = segment_coords(jnp.zeros((1, grid.LENGTH), jnp.int32))
    nothing = jnp.zeros_like(params['placed']['table'])[None]
    table = model.position.embed(None, nothing, at)[0]
    return learned, {**params, 'placed': {'table': table}}, None
  stretched = isinstance(model.position, Rope) and cell[0] != 'rope'
  if not stretched or cell[2] == 'xl':
    return model, params_of(model), None
  plain = model_of('rope', *cell[1:])
  params = params_of(plain)
  return plain, params, scored(model, params)


def losses(model, params, scores, ids, document):
  """All that is made small, and nats of every token, by a scan."""
  given = {'params': params}

  def one(carry, segment):
    tokens, targets, document = segment
    at = segment_coords(document)
    hidden, carry, penalty = model.apply(given, tokens, at, carry, scores)
    nll = model.apply(given, hidden, targets, method='nll')
    return carry, (nll, penalty)

  _, (nll, penalty) = scan_segments(
    one,
    model.initial(ROWS),
    split((ids[:, :-1], ids[:, 1:], document), grid.SEGMENT),
    gradient_segments=grid.SEGMENTS - 1,
  )
  return nll.sum() + penalty.sum(), jnp.concatenate([*nll], axis=1)


taught = tiny.quick_jit(
  jax.value_and_grad(losses, argnums=1, has_aux=True), static_argnums=0
)


def by_token(model, params, scores, ids):
  """Nats of every token, read one at a time as generation does."""
  model = model.for_inference().for_decoding()
  scores = scored(model, params) if scores is None else scores
  reader = Reader(model, params, scores)
  return tiny.decoded(reader, unread(reader, 1, grid.SEGMENT), ids[:1])


def remember(cell, close):
  model, params, scores = shared(cell)
  ids = tiny.some_ids(ROWS, grid.LENGTH + 1, vocab=11)
  ((_, nll), grads), ((_, alone), _) = (
    taught(model, params, scores, ids, x) for x in (DOCUMENT, ALONE)
  )
  close(nll[1, BEGINS:], alone[1, BEGINS:], 1e-5)  # as a fresh run
  if not grid.looks_ahead(cell[1]):
    close(by_token(model, params, scores, ids), nll[:1], 1e-4)
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
  """Every position, and every pattern, beside every memory.

  XL's cache is that of whole models in `test_grid`, but for some positions.
  """
  positions = [*KINDS, *(x for x in grid.POSITIONS if x not in KINDS)]
  in_turn = [x for x in OTHERS if is_two(x) or x in grid.SEVERAL]
  alone = [x for x in OTHERS if x not in in_turn]
  several = grid.several_cells([x for x in positions if not is_stretched(x)])
  few = [x for x in positions if x in OF_EVERY_KIND or is_stretched(x)]
  rest = [x for x in positions if x not in few]
  whole = [x for x in alone if x in grid.WHOLE]
  own = grid.memory_cells(memories=[x for x in alone if x not in whole])
  for turn, name in enumerate(whole):
    its = [*few, *rest[turn :: len(whole)]]
    own += grid.memory_cells(its, memories=[name])
  return [
    *grid.with_memory(own + several),
    *((x, 'causal', 'several') for x in filter(is_stretched, positions)),
    *((x, 'causal', y) for x, y in zip(itertools.cycle(KINDS), in_turn)),
    *grid.memory_cells(UNREAD, ['causal'], ['xl']),
  ]


def is_stretched(position):
  """Whether it shares the program of plain RoPE."""
  found = grid.POSITIONS[position]
  return isinstance(found, Rope) and found.stretch != Plain()


def pytest_generate_tests(metafunc):
  """What the suite has; `pytest -m grid` every two entries."""
  everything = 'grid' in metafunc.config.option.markexpr.split()
  cells = {
    'test_any_memory_serves_any_position_and_pattern': of_suite,
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

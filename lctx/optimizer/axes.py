"""What kind of parameter this is, told by the names of its logical axes.

Never by its rank: under a scan over layers a stacked bias has as many axes as
a matrix. The words, decided by `sides` and nothing else:

  side    an axis, STACKED apart; 'head_width' joins the heads before it
  vector  fewer than two sides: biases, norms, u and v. Never decayed
  table   two sides, one of them looked up (TABLES). Not decayed, and Adam's
  matrix  two other sides. Decayed; Muon orthogonalises it
"""

from collections.abc import Callable
from typing import Any

import jax

from lctx.types import Params

Axes = tuple[str | None, ...]  # the logical axes of one parameter

STACKED = 'layers', 'taps'  # one parameter per entry, seen alone by rules
# An entry is picked, not summed.
TABLES = ('vocab', 'clusters', 'distances', 'positions', 'buckets', 'slots')


def sides(names: Axes) -> tuple[tuple[int, ...], ...]:
  """The dimensions of each side of a parameter: what a kernel reads, writes.

  Raises ValueError for more than two: no rule here knows such a parameter.
  """
  found: list[tuple[int, ...]] = []
  for i, name in enumerate(names):
    if name == 'head_width' and found:
      found[-1] += (i,)
    elif name not in STACKED:
      found.append((i,))
  if len(found) > 2:
    raise ValueError(
      f'The logical axes {names} have {len(found)} sides, but an optimizer '
      'knows vectors, tables and matrices: at most two. Add an axis that '
      'stacks parameters to STACKED in lctx/optimizer/axes.py.'
    )
  return tuple(found)


def is_matrix(names: Axes) -> bool:
  """Whether a parameter is decayed, and orthogonalised by Muon."""
  return len(sides(names)) == 2 and not set(names) & set(TABLES)


def each(rule: Callable[..., Any], axes: Params, *trees: Params) -> Params:
  """`rule(names, ...)` of every parameter; the trees begin like `axes`."""
  return jax.tree.map(rule, axes, *trees, is_leaf=is_names)


def is_names(node) -> bool:
  return isinstance(node, tuple) and all(
    name is None or isinstance(name, str) for name in node
  )

"""Where arrays lie: one table from logical axes to mesh axes."""

import logging
import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lctx.types import Params

_log = logging.getLogger(__name__)

ROWS = ('data', 'fsdp')  # the rows of a batch are split over both

TABLE: dict[str | None, tuple[str, ...]] = {
  'batch': ROWS,
  'length': ('seq',),
  'width': ('fsdp',),
  'vector': ('fsdp',),
  'vocab': ('tensor',),
  'hidden': ('tensor',),
  'gate': ('tensor',),
  'heads': ('tensor',),
  'head_width': (),
  'clusters': (),
  'distances': (),
  'positions': (),
  'buckets': (),
  'slots': (),
  'taps': (),
  'types': (),
  'labels': (),
  'layers': (),
  None: (),
}


def shardings(axes: Params, shapes: Params, mesh: Mesh) -> Params:
  """A NamedSharding for every array.

  `axes`: a tuple of logical axes for each; `shapes`: anything with `.shape`.
  A dimension that its mesh axes do not divide is replicated, and logged. A
  mesh axis splits at most one dimension of an array: the first that names it.
  Raises ValueError for a logical axis that TABLE does not know.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, names, x: NamedSharding(
      mesh, _spec(_name(path), names, x.shape, mesh)
    ),
    axes,
    shapes,
    is_leaf=lambda node: isinstance(node, tuple),
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Of arrays [B, ...]: rows over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def carry_sharding(mesh: Mesh) -> NamedSharding:
  """Of a model's carry, leaves [L, B, ...]: rows lie with their batch."""
  return NamedSharding(mesh, PartitionSpec(None, ROWS))


def follow(params: Params, shardings: Params, state: Params) -> Params:
  """Shardings of an optimizer state: moments lie where their parameter lies.

  A leaf of `state` follows the parameter whose path its own path contains, if
  their shapes agree; everything else (counts, factored moments) is replicated.
  """
  mesh = jax.tree.leaves(shardings)[0].mesh
  homes = {
    path: (x.shape, sharding)
    for (path, x), sharding in zip(
      jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings)
    )
  }

  def place(path, x):
    for start in range(len(path)):
      for end in range(len(path), start, -1):
        shape, sharding = homes.get(path[start:end], (None, None))
        if shape == x.shape:
          return sharding
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(place, state)


def check_rows(rows: int, mesh: Mesh) -> None:
  """Raises ValueError unless the rows divide over data and fsdp."""
  data, fsdp = (mesh.shape[axis] for axis in ROWS)
  parts = data * fsdp
  if rows % parts:
    nearest = {max(1, rows // parts) * parts, -(-rows // parts) * parts}
    raise ValueError(
      f'data.rows = {rows} cannot be split evenly over mesh.data * mesh.fsdp '
      f'= {data} * {fsdp} = {parts} devices. Set data.rows to '
      f'{" or ".join(map(str, sorted(nearest)))}, or use another mesh.'
    )


def _spec(leaf, names, shape, mesh) -> PartitionSpec:
  assert len(names) == len(shape), (leaf, names, shape)
  entries: list[tuple[str, ...] | None] = []
  for name, size in zip(names, shape):
    if name not in TABLE:
      raise ValueError(
        f'{leaf} has a logical axis {name!r} that lctx/sharding/rules.py does '
        f'not map to the mesh. It knows {", ".join(filter(None, TABLE))}; add '
        'a line to TABLE.'
      )
    axes = TABLE[name]
    free = not any(set(axes) & set(entry or ()) for entry in entries)
    splits = axes and free and _divides(leaf, name, size, mesh)
    entries.append(axes if splits else None)
  return PartitionSpec(*entries)


def _divides(leaf, name, size, mesh) -> bool:
  parts = math.prod(mesh.shape[axis] for axis in TABLE[name])
  if size % parts:
    _log.warning(
      '%s: %s = %d is not a multiple of the %d devices along mesh.%s, so each '
      'of them holds all of it.',
      leaf,
      name,
      size,
      parts,
      ' * mesh.'.join(TABLE[name]),
    )
  return size % parts == 0


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')

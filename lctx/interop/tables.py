"""A format is a table: every array of a file, and its place in our tree."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from flax import traverse_util

from lctx.models.body import Body
from lctx.types import Params

Arrays = Mapping[str, np.ndarray]
SHOWN = 6  # names in an error


def same(w: np.ndarray) -> np.ndarray:
  return w


def turned(w: np.ndarray) -> np.ndarray:
  return w.T


@dataclasses.dataclass(frozen=True)
class Entry:
  """One array of theirs, and the place it has in our tree.

  Several entries may share an array: each takes its part of it by `ours`, and
  `joined` makes it of what `theirs` gives of each, in their order.
  """

  name: str
  path: tuple[str, ...]
  shape: tuple[int, ...]
  ours: Callable[[np.ndarray], np.ndarray] = same
  theirs: Callable[[np.ndarray], np.ndarray] = same
  layer: int | None = None  # of a place that is stacked over layers
  joined: Callable[[list[np.ndarray]], np.ndarray] | None = None


def of_layers(
  body: Body, entries: Iterable[Entry], prefix: str, *, root: tuple = ()
) -> list[Entry]:
  """Entries of every layer, given those of one.

  `prefix` begins their names in the file, with {} for the number of the layer;
  `root` is where the body's parameters are.
  """
  entries, found = list(entries), []
  for run in body.runs:
    for i, layer in enumerate(run.layers):
      found += [
        dataclasses.replace(
          entry,
          name=prefix.format(layer) + entry.name,
          path=(*root, *run.path, *entry.path),
          layer=i,
        )
        for entry in entries
      ]
  return found


def read(
  arrays: Arrays,
  wanted: Sequence[Entry],
  aliases: Mapping[str, str],
  ignored: Callable[[str], bool],
) -> Params:
  """Our parameters, float32, of a file that has all that is `wanted`.

  `aliases`: names that repeat another array, if they are there.

  Raises:
    ValueError: names that are missing, unexpected, of another shape, or tied
      in the model but different in the file; the first few of them listed.
  """
  problems = _problems(arrays, wanted, aliases, ignored)
  _check(problems, 'These weights do not fit the model')
  flat: dict = {}
  for entry in wanted:
    value = entry.ours(np.asarray(arrays[entry.name], np.float32))
    if entry.layer is None:
      flat[entry.path] = value
    else:
      flat.setdefault(entry.path, []).append(value)
  flat = {
    path: np.stack(value) if isinstance(value, list) else value
    for path, value in flat.items()
  }
  return jax.tree.map(jax.numpy.asarray, traverse_util.unflatten_dict(flat))


def write(
  params: Params, wanted: Sequence[Entry], aliases: Mapping[str, str]
) -> dict[str, np.ndarray]:
  """Named arrays of our parameters; tied names appear twice.

  Raises ValueError for parameters that are missing, of another shape, or that
  the file has no names for; the first few of them listed.
  """
  flat, parts, found = traverse_util.flatten_dict(params), {}, {}
  known = {entry.path for entry in wanted}
  problems = [f'{"/".join(x)} is missing' for x in sorted(known - {*flat})]
  problems += [f'{"/".join(x)} has no name' for x in sorted({*flat} - known)]
  _check(problems, 'These parameters do not fit the file')
  for entry in wanted:
    value = np.asarray(flat[entry.path])
    value = value if entry.layer is None else value[entry.layer]
    shape = entry.ours(np.broadcast_to(np.float32(0), entry.shape)).shape
    if value.shape != shape:
      problems.append(
        f'{"/".join(entry.path)} has shape {value.shape}, and '
        f'{entry.name} needs {shape}'
      )
      continue
    parts.setdefault(entry.name, []).append(entry.theirs(value))
  _check(problems, 'These parameters do not fit the file')
  for entry in wanted:
    values = parts[entry.name]
    found[entry.name] = entry.joined(values) if entry.joined else values[0]
  return found | {alias: found[name] for alias, name in aliases.items()}


def _check(problems: list[str], what: str) -> None:
  if problems:
    raise ValueError(
      f'{what}: {listed(problems)}. Give the model the sizes and ties the '
      'weights were made with.'
    )


def listed(problems: list[str]) -> str:
  """The first few of them, and how many more there are."""
  more = [f'and {len(problems) - SHOWN} more'] if problems[SHOWN:] else []
  return '; '.join(problems[:SHOWN] + more)


def _problems(arrays, wanted, aliases, ignored):
  names = {entry.name: entry for entry in wanted}
  unexpected = {
    name for name in {*arrays} - {*names} - {*aliases} if not ignored(name)
  }
  found = [f'{name} is missing' for name in names if name not in arrays]
  found += [f'{name} is unexpected' for name in sorted(unexpected)]
  for name, entry in names.items():
    if name in arrays and arrays[name].shape != entry.shape:
      found.append(
        f'{name} has shape {arrays[name].shape}, the model needs {entry.shape}'
      )
  for alias, name in aliases.items():
    both = alias in arrays and name in arrays
    if both and not np.array_equal(arrays[alias], arrays[name]):
      found.append(f'{alias} differs from {name}, to which it is tied')
  return found

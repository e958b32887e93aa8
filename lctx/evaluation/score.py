"""Nats of every token of padded rows, under chosen conditions of memory.

The rows are read segment by segment with their own carry. At each segment
the same tokens can also be read with another memory in its place:

  own    the carry the row itself made
  swap   what another row remembered at the same moment, in the same slots
  none   an empty memory
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lctx.evaluation.rows import Rows
from lctx.memory.base import Memory
from lctx.models.segments import merge, split
from lctx.models.text import Decoder
from lctx.positions import Position
from lctx.types import EMPTY, Array, Params, segment_coords

AT_ONCE = 4  # segments per call: long enough to be fast, short enough to stop


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What is measured, and how it is read.

  `split` of the corpus; `segment`, `memory` (its length), `same_length` and
  `clamp` None = as trained; `declared`, tokens of the longest document, for
  positions that stretch by it, None = as in the config; `rows` are read side by
  side; `tokens` at most, None = all; `compare`: also with another's memory and
  with none.
  """

  split: str = 'test'
  segment: int | None = None
  memory: int | None = None
  same_length: bool | None = None
  clamp: int | None = None
  declared: int | None = None
  rows: int = 16
  tokens: int | None = None
  compare: bool = True

  def __post_init__(self):
    if self.split not in ('train', 'valid', 'test'):
      raise ValueError(
        f"eval.split = {self.split!r} is no split. Use 'train', 'valid' or "
        "'test'."
      )
    for name in ('segment', 'memory', 'clamp', 'declared', 'rows', 'tokens'):
      value, lowest = getattr(self, name), int(name != 'memory')
      if value is not None and value < lowest:
        raise ValueError(f'eval.{name} = {value} must be at least {lowest}.')
    if self.same_length and self.memory == 0:
      raise ValueError(
        'eval.same_length = true lets every query see eval.memory keys, but '
        'that is 0. Give it at least 1, or set eval.same_length=false.'
      )

  def model(self, model: Decoder) -> Decoder:
    """The model with the memory and clamp of this evaluation.

    Raises:
      ValueError: the model has no such thing to set.
    """
    memory = _with(
      Memory,
      model.memory,
      memory=('length', self.memory),
      same_length=('same_length', self.same_length),
    )
    position = _with(Position, model.position, clamp=('clamp', self.clamp))
    if self.declared is not None:
      position = _declared(position, self.declared)
    return dataclasses.replace(model, memory=memory, position=position)


class Scorer:
  """A model with fixed parameters that scores rows, piece after piece."""

  def __init__(self, model: Decoder, params: Params, segment: int):
    self.model, self.segment = model.for_inference(), segment
    self._params = params
    self._scores = _scores(self.model, params, segment)

  def __call__(
    self,
    pieces: Iterable[Rows],
    conditions: tuple[str, ...] = ('own',),
    poll: Callable[[], None] = lambda: None,
  ) -> Iterator[tuple[Rows, dict[str, np.ndarray]]]:
    """Each piece with its nats per condition, float32 [B, n].

    `poll` is called every few segments and may raise. 'swap' is measured
    where the rows have others to borrow from.
    """
    carry = None
    for rows in pieces:
      if rows.opens:
        carry = self.model.initial(rows.tokens.shape[0])
      measured = tuple(
        name for name in conditions if name != 'swap' or rows.other is not None
      )
      carry, nats = self._piece(carry, rows, measured, poll)
      yield rows, nats

  def lowered(self, rows: Rows) -> jax.stages.Lowered:
    """The program that reads `rows` with their own memory, not compiled yet."""
    carry = self.model.initial(rows.tokens.shape[0])
    part, other_B = next(self._parts(rows))
    return _read.lower(*self._arguments(carry, part, other_B), ('own',))

  def _piece(self, carry, rows, conditions, poll):
    length = rows.tokens.shape[1]
    found: dict[str, list] = {name: [] for name in conditions}
    for part, other_B in self._parts(rows):
      poll()
      arguments = self._arguments(carry, part, other_B)
      carry, nats = _read(*arguments, conditions)
      for name, value in nats.items():
        found[name].append(value)
    nats = {
      name: np.concatenate(jax.device_get(parts), axis=1)[:, :length]
      for name, parts in found.items()
    }
    return carry, nats

  def _arguments(self, carry, part, other_B):
    return self.model, self._params, self._scores, carry, part, other_B

  def _parts(self, rows):
    """Some segments at a time, and whose memory each row borrows."""
    length, step = rows.tokens.shape[1], self.segment * AT_ONCE
    padding = ((0, 0), (0, -length % step))
    arrays = (
      np.pad(rows.tokens, padding),
      np.pad(rows.targets, padding),
      np.pad(rows.document, padding, constant_values=EMPTY),
    )
    other = np.arange(len(rows.tokens)) if rows.other is None else rows.other
    for start in range(0, length, step):
      part = tuple(jnp.asarray(x[:, start : start + step]) for x in arrays)
      yield split(part, self.segment), jnp.asarray(other)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _scores(model: Decoder, params: Params, segment: int):
  return model.scores(params, segment)


@functools.partial(jax.jit, static_argnums=(0, 6))
def _read(
  model: Decoder, params: Params, scores, carry, segments, other_B, conditions
) -> tuple[Any, dict[str, Array]]:
  """Some segments: the carry after them, and nats per condition [B, n]."""
  variables = {'params': params}
  nobody = model.initial(len(other_B))

  def nats(carry, tokens, targets, at):
    hidden, carry, _ = model.apply(variables, tokens, at, carry, scores)
    return model.apply(variables, hidden, targets, method='nll'), carry

  def step(own, inputs):
    tokens, targets, document = inputs
    at = segment_coords(document)
    found = {}
    if 'swap' in conditions:
      swapped = model.exchange(own, other_B)
      found['swap'], _ = nats(swapped, tokens, targets, at)
    if 'none' in conditions:
      found['none'], _ = nats(nobody, tokens, targets, at)
    found['own'], carry = nats(own, tokens, targets, at)
    return carry, {name: found[name] for name in conditions}

  carry, found = jax.lax.scan(step, carry, segments)
  return carry, merge(found)


def _declared(position: Position, length: int) -> Position:
  if position.declared(length) == position.declared(length + 1):
    raise ValueError(
      f'eval.declared = {length} has no effect: model.position is not '
      'stretched by the length of a text, as rope is with '
      'model.position.stretch=dynamicntk or longrope. Leave it none.'
    )
  return position.declared(length)


def _with(kind: type, part, **settings):
  """`settings`: by the name in `eval`, the field of the part and its value.

  A part made of several of its `kind` has them changed that have such fields.
  """
  given = {k: pair for k, pair in settings.items() if pair[1] is not None}
  changes = dict(given.values())
  said = ' and '.join(f'eval.{k} = {value}' for k, (_, value) in given.items())
  try:
    changed = _changed(kind, part, changes)
  except ValueError as error:
    raise ValueError(f'{said} does not fit the model: {error}') from error
  if changed is None:
    raise ValueError(
      f'{said} cannot be: {type(part).__name__} has no {", ".join(changes)}. '
      'Leave it none.'
    )
  return changed


def _changed(kind: type, part, changes: dict):
  """None = nothing in it has these fields."""
  held = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
  if set(changes) <= set(held):
    return dataclasses.replace(part, **changes)
  inner = {
    name: _changed(kind, value, changes)
    for name, value in held.items()
    if isinstance(value, kind)
  }
  inner = {name: value for name, value in inner.items() if value is not None}
  return dataclasses.replace(part, **inner) if inner else None

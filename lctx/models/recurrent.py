"""How a stack carries: its layers, and how segments open and close."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lctx.layers.parameters import Owner
from lctx.memory.base import remembers
from lctx.memory.held import (
  exchanged,
  forgotten,
  last_read,
  place,
  where,
)
from lctx.models.block import Block, InTurn, Shared
from lctx.models.carry import (
  LayerCarry,
  ModelCarry,
  first_layer,
  open_segment,
  per_layer,
  token_before,
)
from lctx.models.runs import Kind, Run, Turns, turns_of
from lctx.positions.base import Position
from lctx.types import (
  EMPTY,
  Array,
  Coords,
  Params,
  join,
  offsets,
  segment_coords,
)


class Recurrent(nn.Module):
  """A stack of layers that remember; a model's fields are the parts.

  It asks `sizes(segment)` of the model, and `_drop`, its dropout of states.
  """

  @property
  def turns(self) -> tuple[Turns, ...]:
    """The layers, in the order in which they are read: each is one scan."""
    depth = self.stack.depth
    parts = self.memory, self.pattern, self.position
    kinds = zip(*(part.of_layers(depth) for part in parts))
    return turns_of(tuple(Kind(*kind) for kind in kinds))

  @property
  def runs(self) -> tuple[Run, ...]:
    """Layers that are alike, whose parameters and carry are stacked."""
    return tuple(run for turns in self.turns for run in turns.runs)

  @property
  def once_names(self) -> dict[Position, str]:
    """Of what layers share of each position scheme, as parameters have it."""
    schemes = dict.fromkeys(run.kind.position for run in self.runs)
    return {x: f'once_{i}' if i else 'once' for i, x in enumerate(schemes)}

  @property
  def attends(self) -> bool:
    """Whether any layer does, and so has a use for positions of pairs."""
    return any(run.memory.attends for run in self.runs)

  def check_segment(self, length: int) -> None:
    """Raises ValueError for a segment that the memory cannot read."""
    if not self.is_initializing():  # of any length
      self.memory.check_segment(length, 'The length of a segment')

  def set_up_layers(self) -> None:
    """The submodules that layers are made of."""
    self.position_once = {
      scheme: Owner(scheme.once, name=name)
      for scheme, name in self.once_names.items()
    }
    self.memory_once = [Owner(run.memory.once) for run in self.runs]
    self.around = Owner(_asked)
    block = Block
    if self.compute.remat_layers:
      block = nn.remat(Block, prevent_cse=False)
    for turns in self.turns:
      target, parts = block, [self._parts(run) for run in turns.runs]
      if len(parts) > 1:
        target, parts = InTurn, [(block, tuple(parts))]
      depth = turns.runs[0].depth
      layers = nn.scan(
        target,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(0, 0, *(nn.broadcast,) * 4),
        length=depth,
        unroll=min(self.compute.unroll, depth),
        check_constancy_invariants=False,  # traces all layers once more
        metadata_params={nn.PARTITION_NAME: 'layers'},
      )(*parts[0])
      setattr(self, turns.name, layers)

  def _parts(self, run: Run) -> tuple:
    """The fields of one of its blocks."""
    return (
      self.stack,
      run.kind.position,
      self.heads,
      run.kind.pattern,
      run.memory,
      self.dropout,
      self.compute.kernel,
      self.memory.around.counts,
      self.cross,
    )

  def layers_of(self, x, at, carry, scores, sizes, closing_B=None):
    """All of them: states, carry and auxiliary losses."""
    asks = scores is None and self.attends
    position = {
      scheme: owner(sizes, self._drop) if asks else None
      for scheme, owner in self.position_once.items()
    }
    context = first_layer(carry.context)
    shared = [
      Shared(position[run.kind.position], once(sizes, self._drop), context)
      for run, once in zip(self.runs, self.memory_once)
    ]
    given = scores or [None] * len(self.runs)
    layers, total, first = [], 0.0, 0
    for turns in self.turns:
      own = slice(first, first + len(turns.runs))
      first = own.stop
      inputs = (turns.joined(of[own]) for of in (carry.layers, given, shared))
      layer = getattr(self, turns.name)
      x, (new, penalties) = layer(x, *inputs, at, sizes, closing_B)
      layers += turns.parted(new)
      total += penalties.sum()
    return x, carry.replace(layers=tuple(layers)), total

  def whole(self, x, at, carry, scores, sizes):
    """A whole segment, with what stands around its text."""
    self.check_segment(at.length)
    around = self.memory.around
    if not any(around.counts):
      return self.layers_of(x, at, carry, scores, sizes)
    start, stop = around.before, around.before + at.length
    last = place(at)
    first = self._first(carry, sizes, last.document >= 0)
    parts = first, (x, at), self._last(carry, last, stop, sizes)
    x = jnp.concatenate([x for x, _ in parts if x is not None], axis=1)
    at = functools.reduce(join, (at for _, at in parts if at is not None))
    x, carry, penalty = self.layers_of(x, at, carry, scores, sizes)
    carry = self._kept(carry, x[:, stop:], last)
    return x[:, start:stop], carry, penalty

  def _first(self, carry, sizes, begins_B1):
    """States and coordinates of what stands before the text that begins."""
    around = self.memory.around
    if not around.before:
      return None, None
    held = first_layer(carry.around)
    x, document_BT = self.around(around.first, held, sizes)
    at = segment_coords(jnp.where(begins_B1, document_BT, EMPTY))
    if (last := last_read(held)) is not None:
      at = at.replace(offset=jnp.zeros_like(at.offset) + last[1][:, None])
    return x.astype(sizes.dtype), at

  def _last(self, carry, place, start, sizes):
    """The same after the text, whose last token sat at `place`."""
    around = self.memory.around
    if not around.after:
      return None, None
    x = self.around(around.last, first_layer(carry.around), place, sizes)
    document_BT = jnp.repeat(place.document, around.after, axis=1)
    at = segment_coords(document_BT, start)
    began = jnp.full_like(at.segment, around.before)
    at = at.replace(segment=began, offset=place.offset + 1 + at.offset)
    return x.astype(sizes.dtype), at

  def _kept(self, carry, x, place):
    around = self.memory.around
    if not around.after:
      return carry
    kept = self.around(around.keep, first_layer(carry.around), x, place)
    return carry.replace(around=jax.tree.map(lambda leaf: leaf[None], kept))

  def opened(
    self, batch: int, segment: int, scores: Any, carry: ModelCarry | None
  ) -> ModelCarry:
    """Rows that have read nothing, with an open segment each."""
    self.check_segment(segment)
    sizes = self.sizes(segment)
    opened = open_segment(batch, segment, self.memory.around.counts, sizes)
    carry = self.initial(batch) if carry is None else carry
    layers = tuple(
      layer.replace(open=per_layer(opened, run.depth))
      for layer, run in zip(carry.layers, self.runs)
    )
    carry = carry.replace(layers=layers)
    return self._begun(carry, jnp.ones(batch, bool), scores, sizes)

  def closed(self, carry: ModelCarry, scores: Any) -> ModelCarry:
    """Rows whose text is full: into memory, and a new segment begins."""
    text = carry.open.text.at
    batch, segment = text.document.shape
    sizes, closing_B = self.sizes(segment), carry.open.filled == segment
    last = place(text)
    last = last.replace(
      document=jnp.where(closing_B[:, None], last.document, EMPTY)
    )
    start = self.memory.around.before + segment
    x, at = self._last(carry, last, start, sizes)
    if x is None:
      x = jnp.zeros((batch, 0, sizes.width), sizes.dtype)
      at = segment_coords(jnp.zeros((batch, 0), jnp.int32), start)
    x, new, _ = self.layers_of(x, at, carry, scores, sizes, closing_B)
    return self._begun(self._kept(new, x, last), closing_B, scores, sizes)

  def _begun(self, carry, rows_B, scores, sizes):
    """With what stands before the text, in new segments of these rows."""
    x, at = self._first(carry, sizes, rows_B[:, None])
    if x is None:
      return carry
    return self.layers_of(x, at, carry, scores, sizes)[1]

  def counted(self, at: Coords, carry: ModelCarry) -> Coords:
    """With the offset of each token in its document, wherever that began."""
    memories = first_layer(tuple(layer.memory for layer in carry.layers))
    last = last_read((memories, first_layer(carry.around)))
    opened = carry.open
    if opened is not None:
      last = token_before(opened.text, at, last)
    if last is None:
      return at
    return at.replace(offset=offsets(at.document, *last))

  @property
  def remembers(self) -> bool:
    """Whether anything is carried from segment to segment."""
    return any(remembers(run.memory, self.sizes()) for run in self.runs)

  @nn.nowrap
  def initial(self, batch: int) -> ModelCarry:
    """The carry of `batch` rows that have read nothing; leaves [L, B, ...]."""
    sizes, dtype = self.sizes(), self.compute.jax_dtype
    layers = tuple(
      LayerCarry(per_layer(run.memory.initial(batch, sizes, dtype), run.depth))
      for run in self.runs
    )
    around = self.memory.around.initial(batch, sizes, dtype)
    return ModelCarry(layers, per_layer(around, 1))

  @nn.nowrap
  def open(
    self,
    params: Params,
    batch: int,
    segment: int,
    scores: Any = None,
    carry: ModelCarry | None = None,
  ) -> ModelCarry:
    """As `initial`, with open segments: for reading token by token.

    `carry`: one that has read nothing, but has a context.
    """
    given = batch, segment, scores, carry
    return self.apply({'params': params}, *given, method='opened')

  @nn.nowrap
  def close(
    self, params: Params, carry: ModelCarry, scores: Any = None
  ) -> ModelCarry:
    """Rows whose open segment is full: into memory, and it is empty again."""
    return self.apply({'params': params}, carry, scores, method='closed')

  @nn.nowrap
  def forget(self, carry: ModelCarry, rows_B: Array) -> ModelCarry:
    """The carry with the memory of some rows emptied."""
    return carry.of_memory(forgotten, rows_B)

  @nn.nowrap
  def exchange(self, carry: ModelCarry, rows_B: Array) -> ModelCarry:
    """Row b with what row `rows_B[b]` remembers, in row b's own slots."""
    return carry.of_memory(exchanged, rows_B)

  @nn.nowrap
  def where(
    self, rows_B: Array, new: ModelCarry, old: ModelCarry
  ) -> ModelCarry:
    """`new` in the rows where `rows_B` is true, else `old`."""
    return where(rows_B, new, old, axis=1)


def _asked(param: Callable, question: Callable, *given):
  """Calls one method of a part with the parameters that its owner makes."""
  return question(param, *given)

"""Attention in one kernel: on a TPU, nothing of size [T, S] leaves the chip.

The part of a config; `flash_tpu` is the kernel. Scores rotate queries and keys
before it, and change logits inside it by `Step`s; sums over whole rows come
first, by blocks.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lctx.kernels.base import Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dropout import Dropout
from lctx.kernels.flash_tiles import Place
from lctx.kernels.flash_tpu import Flash, Inputs, attend
from lctx.kernels.fold import folded
from lctx.kernels.source import Source, rotated
from lctx.kernels.tiles import longer_coords, seen_blocks
from lctx.patterns.base import Pattern
from lctx.positions.steps import Plus, Step
from lctx.types import Array, Beside, Coords

_ORDER = 'needs keys that lie in steps known when compiling'
_INSTEAD = 'Use model.compute.kernel=chunked, which can.'


@dataclasses.dataclass(frozen=True)
class Fused(Kernel):
  """By tiles of `queries` x `keys`, multiples of 128; TPU v5 or newer.

  `interpret` runs it on any platform, slowly, by tiles of multiples of 8: for
  tests.
  """

  queries: int = 256
  keys: int = 512
  interpret: bool = False

  def __post_init__(self):
    multiple = 8 if self.interpret else 128
    for name in ('queries', 'keys'):
      side = getattr(self, name)
      if side < 1 or side % multiple:
        raise ValueError(
          f'model.compute.kernel.{name} = {side} is the side of a tile and '
          f'must be a multiple of {multiple}, such as 256.'
        )

  def check(self, patterns, in_order):
    if not in_order:
      raise ValueError(f'model.compute.kernel = fused {_ORDER}. {_INSTEAD}')

  def check_platform(self, platform):
    if platform != 'tpu' and not self.interpret:
      raise ValueError(
        f'model.compute.kernel = fused runs on TPUs, but this is a {platform}. '
        'Use model.compute.kernel=auto, which takes it on TPUs only.'
      )

  def for_decoding(self):
    return Chunked()

  def __call__(self, sources, dropout):
    if reason := unfusable(sources):
      raise ValueError(f'model.compute.kernel = fused {reason}. {_INSTEAD}')
    known = [
      (self._flash(source, dropout), _inputs(source, dropout))
      for source in folded(sources, self.keys)
    ]
    return attend(*zip(*known))

  def _flash(self, source: Source, dropout: Dropout | None) -> Flash:
    sides = self.queries, self.keys
    longer_q, longer_k = (
      longer_coords(at, -at.length % side)
      for at, side in zip((source.q_at, source.k_at), sides)
    )
    first, end = seen_blocks(source.pattern.reach, longer_q, longer_k, sides)
    tables = jax.eval_shape(source.pattern.tables, source.heads_N)
    layout = jax.tree.structure(tables)
    return Flash(
      visible=functools.partial(_visible, source.pattern, layout),
      queries=self.queries,
      keys=self.keys,
      rate=dropout.rate if dropout is not None else 0.0,
      first=first,
      end=end,
      interpret=self.interpret,
    )


def unfusable(sources: tuple[Source, ...]) -> str | None:
  """Why these do not fit into the fused kernel; None = they do."""
  for source in sources:
    at = source.q_at, source.k_at
    if any(x.start is None or x.step != 1 for x in at):
      return _ORDER
  try:
    jax.eval_shape(lambda x: list(map(_steps, folded(x))), sources)
  except NotImplementedError as error:
    return f'changes logits by steps, but {error}'
  return None


def _steps(source: Source) -> tuple[Plus, tuple[Step, ...]]:
  """What is added before all else, at once; and what is done after."""
  first, later = Plus(), []
  for score in source.scores:
    for step in score.steps(source.q, source.q_at, source.k_at):
      if isinstance(step, Plus) and not later:
        first = first.joined(step)
      else:
        later.append(step)
  return first, tuple(later)


def _inputs(source: Source, dropout: Dropout | None) -> Inputs:
  q_BTNH, k_BSKH = rotated(source)
  first, later = _steps(source)
  c = first.c
  if c is not None:
    c = jnp.broadcast_to(c, (c.shape[0], source.q.shape[2]))
  heads_N = source.heads_N
  seeds = None
  if dropout is not None:
    seeds = dropout.keys(heads_N, len(source.q))
  return Inputs(
    q=q_BTNH,
    k=k_BSKH,
    v=source.v,
    q_place=_place(source.q_at),
    k_place=_place(source.k_at),
    qr=first.qr,
    r=first.r,
    c=c,
    steps=later,
    heads=heads_N,
    seeds=seeds,
    tables=tuple(jax.tree.leaves(source.pattern.tables(heads_N))),
  )


def _place(at: Coords) -> Array:
  """int32 [B, 5, L]."""
  rows = [getattr(at, name) for name in Place._fields]
  batch = at.document.shape[0]
  rows = [jnp.broadcast_to(x, (batch, at.length)) for x in rows]
  return jnp.stack(rows, axis=1)


def _visible(
  pattern: Pattern, layout, q_at: Place, k_at: Place, head: Array, *tables
) -> Array:
  """bool [T, S], inside the kernel; `layout` is that of all tables."""
  tables = jax.tree.unflatten(layout, [table[None] for table in tables])
  q_at, k_at = (
    Coords(
      position=None,
      **{name: Beside(x[None, None]) for name, x in at._asdict().items()},
    )
    for at in (q_at, k_at)
  )
  heads_N = jnp.full((1, 1, 1, 1), head, jnp.int32)
  seen = pattern.given(tables).allowed(q_at, k_at, heads_N)
  return jax.lax.squeeze(seen, (0, 1))

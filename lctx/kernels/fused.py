"""Attention in one kernel: nothing of size [T, S] is kept.

The part of a config; `flash_tpu` and `flash_gpu` have the kernels. Scores
rotate queries and keys before them, and change logits inside by `Step`s; sums
over whole rows come first, by blocks.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lctx.kernels.any_order import any_order
from lctx.kernels.base import ORDER, Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dropout import Dropout
from lctx.kernels.flash import merged
from lctx.kernels.flash_gpu import GpuFlash
from lctx.kernels.flash_inputs import Inputs
from lctx.kernels.flash_tiles import Place
from lctx.kernels.flash_tpu import TpuFlash
from lctx.kernels.fold import folded
from lctx.kernels.source import Source, rotated
from lctx.kernels.tiles import longer_coords, seen_blocks
from lctx.patterns.base import Pattern
from lctx.positions.steps import Plus, Step
from lctx.types import Array, Beside, Coords

_INSTEAD = 'Use model.compute.kernel=chunked, which can.'
_FLASH = {'tpu': TpuFlash, 'gpu': GpuFlash}


@dataclasses.dataclass(frozen=True)
class Fused(Kernel):
  """By tiles of `queries` x `keys`, None = as suits; TPU v5, A100, or newer.

  On a TPU both are multiples of 128; on a GPU powers of two from 16 on, keys at
  most as many as queries. `platform` ('tpu', 'gpu'): where the program will
  run; None = where this process computes. `interpret` runs it on any, slowly,
  with sides of a few, as on a TPU if no platform is given: for tests.

  Keys in no known order, such as sums of blocks, are met by tiles of plain JAX
  beside it.
  """

  queries: int | None = None
  keys: int | None = None
  interpret: bool = False
  platform: str | None = None

  def __post_init__(self):
    if self.platform not in (None, *_FLASH):
      raise ValueError(
        f'model.compute.kernel.platform = {self.platform!r} has no fused '
        "kernel. Use 'tpu' or 'gpu', or none for where the process computes."
      )
    known = self.platform or ('tpu' if self.interpret else None)
    misfits = [self._misfit(one) for one in ((known,) if known else _FLASH)]
    if all(misfits):
      raise ValueError(' '.join(misfits))

  def check_platform(self, platform):
    if self.interpret:
      return
    if platform not in _FLASH:
      raise ValueError(
        f'model.compute.kernel = fused runs on TPUs and GPUs, but this is a '
        f'{platform}. Use model.compute.kernel=auto, which takes it there only.'
      )
    if self.platform not in (None, platform):
      raise ValueError(
        f'model.compute.kernel.platform = {self.platform}, but this is a '
        f'{platform}. Leave it out, or use model.compute.kernel=auto.'
      )
    if misfit := self._misfit(platform):
      raise ValueError(misfit)

  def for_decoding(self):
    return Chunked()

  def __call__(self, sources, dropout):
    platform = self.platform or self._here()
    self.check_platform(platform)
    if reason := unfusable(sources, platform):
      raise ValueError(f'model.compute.kernel = fused {reason}. {_INSTEAD}')
    _, keys = sides = self._sides(platform)
    sets, others = [], []
    for source in folded(sources, keys):
      if source.in_steps:
        flash = self._flash(source, dropout, platform, sides)
        sets.append((flash, flash.operands(_inputs(source, dropout))))
      else:
        others.append(source)
    x = sets[0][1]
    size = x.q.shape[2], x.v.shape[3]
    sets += [any_order(source, dropout, *size) for source in others]
    y_BTNH = jnp.moveaxis(merged(*zip(*sets)), 1, 2)
    return y_BTNH[:, : sources[0].q.shape[1], :, : sources[0].v.shape[3]]

  def _flash(self, source, dropout, platform, sides):
    longer_q, longer_k = (
      longer_coords(at, -at.length % side)
      for at, side in zip((source.q_at, source.k_at), sides, strict=True)
    )
    first, end = seen_blocks(source.pattern.reach, longer_q, longer_k, sides)
    tables = jax.eval_shape(source.pattern.tables, source.heads_N)
    layout = jax.tree.structure(tables)
    return _FLASH[platform](
      functools.partial(_visible, source.pattern, layout),
      *sides,
      rate=dropout.rate if dropout is not None else 0.0,
      first=first,
      end=end,
      interpret=self.interpret,
    )

  def _here(self) -> str:
    return 'tpu' if self.interpret else jax.default_backend()

  def _sides(self, platform: str) -> tuple[int, int]:
    flash = _FLASH[platform]
    queries = flash.queries if self.queries is None else self.queries
    return queries, flash.keys if self.keys is None else self.keys

  def _misfit(self, platform: str) -> str | None:
    """Why tiles of these sides cannot be there, or None."""
    sides = self._sides(platform)
    return _FLASH[platform].misfit(*sides, self.interpret)


def unfusable(sources: tuple[Source, ...], platform: str) -> str | None:
  """Why these do not fit into the fused kernel; None = they do."""
  if not any(source.in_steps for source in sources):
    return f'{ORDER}, one set at least'
  try:
    inputs = jax.eval_shape(
      lambda x: [_inputs(y, None) for y in folded(x) if y.in_steps], sources
    )
  except NotImplementedError as error:
    return f'changes logits by steps, but {error}'
  return _FLASH[platform].hindrance(inputs)


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
  pattern: Pattern, layout, q_at: Place, k_at: Place, head: Array, *look_ups
) -> Array:
  """bool [T, S], inside the kernel; `layout` is that of all tables."""
  look_ups = jax.tree.unflatten(layout, look_ups)
  q_at, k_at = (
    Coords(
      position=None,
      **{name: Beside(x[None, None]) for name, x in at._asdict().items()},
    )
    for at in (q_at, k_at)
  )
  heads_N = jnp.full((1, 1, 1, 1), head, jnp.int32)
  seen = pattern.given(look_ups).allowed(q_at, k_at, heads_N)
  return jax.lax.squeeze(seen, (0, 1))

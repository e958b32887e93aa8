"""Attention in one kernel: nothing of size [T, S] is kept.

The part of a config; `flash_tpu` and `flash_gpu` are the kernels. Scores that
rotate queries and keys, or add what the distance says, run inside them; so does
a cap.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lctx.kernels import flash_gpu, flash_tpu
from lctx.kernels.base import Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dropout import Dropout
from lctx.kernels.flash_tiles import Place
from lctx.kernels.flash_tpu import Inputs
from lctx.kernels.source import Source, rotated
from lctx.kernels.tiles import longer_coords, seen_blocks
from lctx.patterns.base import Pattern
from lctx.positions.base import Score
from lctx.positions.relative import RelativeRows, with_bias
from lctx.types import Array, Beside, Coords

_INSTEAD = 'Use model.compute.kernel=chunked, which can.'
_FLASH = {'tpu': flash_tpu.Flash, 'gpu': flash_gpu.Flash}


@dataclasses.dataclass(frozen=True)
class Fused(Kernel):
  """By tiles of `queries` x `keys`, None = as suits; TPU v5, A100, or newer.

  On a TPU both are multiples of 128; on a GPU powers of two from 16 on, keys at
  most as many as queries. `platform` ('tpu', 'gpu'): where the program will
  run; None = where this process computes. `interpret` runs it on any, slowly,
  with sides from 8 on, as on a TPU if no platform is given: for tests.
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

  def check(self, pattern, kinds):
    hindrance = _hindrance(pattern, kinds)
    if hindrance:
      raise ValueError(f'model.compute.kernel = fused {hindrance}. {_INSTEAD}')

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
    (source,) = sources
    q_at, k_at = source.q_at, source.k_at
    sides = self._sides(platform)
    longer_q, longer_k = (
      longer_coords(at, -at.length % side)
      for at, side in zip((q_at, k_at), sides, strict=True)
    )
    first, end = seen_blocks(source.pattern.reach, longer_q, longer_k, sides)
    flash = _FLASH[platform](
      functools.partial(_visible, source.pattern),
      *sides,
      cap=next((s.cap for s in source.scores if s.caps), None),
      rate=dropout.rate if dropout is not None else 0.0,
      first=first,
      end=end,
      interpret=self.interpret,
    )
    return flash(_inputs(source, dropout))

  def _here(self) -> str:
    return 'tpu' if self.interpret else jax.default_backend()

  def _sides(self, platform: str) -> tuple[int, int]:
    flash = _FLASH[platform]
    queries = flash.queries if self.queries is None else self.queries
    return queries, flash.keys if self.keys is None else self.keys

  def _misfit(self, platform: str) -> str | None:
    """Why tiles of these sides cannot be there, or None."""
    queries, keys = self._sides(platform)
    for name, side in (('queries', queries), ('keys', keys)):
      given = f'model.compute.kernel.{name} = {side} is the side of a tile'
      multiple = 8 if self.interpret else 128
      if platform == 'tpu' and (side < 1 or side % multiple):
        return (
          f'{given} and must be a multiple of {multiple} on a TPU, such as 256.'
        )
      least = 8 if self.interpret else flash_gpu.LEAST
      if platform == 'gpu' and (side < least or side & (side - 1)):
        return (
          f'{given} and must be a power of two on a GPU, {least} or more, such '
          'as 64.'
        )
    if platform == 'gpu' and keys > queries:
      return (
        f'model.compute.kernel.keys = {keys} are more than its queries = '
        f'{queries}. On a GPU, use at most as many.'
      )
    return None


def unfusable(sources: tuple[Source, ...], platform: str) -> str | None:
  """Why these do not fit into one fused kernel; None = they do."""
  if len(sources) != 1:
    return f'reads one set of keys, but memory gives {len(sources)}'
  (source,) = sources
  q_at, k_at = source.q_at, source.k_at
  if None in (q_at.start, k_at.start) or (q_at.step, k_at.step) != (1, 1):
    return 'needs coordinates whose order is known when compiling'
  kinds = tuple(map(type, source.scores))
  if hindrance := _hindrance(source.pattern, kinds):
    return hindrance
  try:
    _rows(source)
  except ValueError as error:
    return f'adds and caps only, but {error}'
  if platform == 'gpu':
    return flash_gpu.hindrance(source.q.shape[-1], source.v.shape[-1])
  return None


def _hindrance(pattern: Pattern, kinds: tuple[type[Score], ...]) -> str | None:
  """What of a model does not fit, as far as it is known when it is built."""
  if pattern.looks_up:
    return (
      f'knows arithmetic on coordinates only, but model.pattern = {pattern} '
      'looks blocks up in a plan'
    )
  if any(kind.folds for kind in kinds):
    return (
      'makes each logit once, but model.heads.adaptive = adaptivescores needs '
      'sums over whole rows first'
    )
  if any(kind.caps for kind in kinds[:-1]):
    return 'caps logits last, but model.heads.span comes after model.heads.cap'
  return None


def _rows(source: Source) -> list[RelativeRows]:
  return [
    rows
    for score in source.scores
    if not score.caps
    for rows in score.by_rows(source.q_at, source.k_at)
  ]


def _inputs(source: Source, dropout: Dropout | None) -> Inputs:
  q_BTNH, k_BSKH = rotated(source)
  qr = r = c = None
  for rows in _rows(source):
    if rows.r_PNH is not None:
      qr, r = with_bias(source.q, rows.v_NH, rows.scale), rows.r_PNH
    if rows.c_PN is not None:
      more = rows.c_PN * rows.scale
      c = more if c is None else c + more
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
    qr=qr,
    r=r,
    c=c,
    heads=heads_N,
    seeds=seeds,
  )


def _place(at: Coords) -> Array:
  """int32 [B, 5, L]."""
  rows = [getattr(at, name) for name in Place._fields]
  batch = at.document.shape[0]
  rows = [jnp.broadcast_to(x, (batch, at.length)) for x in rows]
  return jnp.stack(rows, axis=1)


def _visible(pattern: Pattern, q_at: Place, k_at: Place, head: Array) -> Array:
  """bool [T, S], inside the kernel."""
  q_at, k_at = (
    Coords(
      position=None,
      **{name: Beside(x[None, None]) for name, x in at._asdict().items()},
    )
    for at in (q_at, k_at)
  )
  heads_N = jnp.full((1, 1, 1, 1), head, jnp.int32)
  seen = pattern.allowed(q_at, k_at, heads_N)
  return jax.lax.squeeze(seen, (0, 1))

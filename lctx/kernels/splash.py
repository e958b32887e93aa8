"""The stock kernel of JAX for TPUs, splash attention, where it serves.

It masks by the steps between tokens and by their documents, as those of lctx's
patterns do that are exactly their reach; it knows no term of distance. The mask
is a rule that tiles compute: nothing of size [T, S] is kept.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as stock

from lctx.kernels.base import ORDER, Kernel
from lctx.kernels.chunked import Chunked
from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source, rotated
from lctx.patterns.base import Pattern
from lctx.positions.cap import SoftCap
from lctx.types import EMPTY, MASKED, Array, Coords

LANES = 128  # a TPU's; sides of tiles are multiples of it
UNSEEN = EMPTY - 1  # the document of a key that holds nothing: no query has it
_MET = None, 'default', 'bfloat16'  # wishes for precision of short numbers
_INSTEAD = 'Use model.compute.kernel=auto, which takes one that can.'


@dataclasses.dataclass(frozen=True)
class Splash(Kernel):
  """By tiles of at most `queries` x `keys`, multiples of 128; TPUs only.

  For one set of keys in known steps, patterns made of causal, window and
  everything, and scores that rotate or cap; it drops no weights. `platform`
  'tpu': where the program will run; None = where this process computes.
  `interpret` runs it on any, slowly: for tests.
  """

  any_order: ClassVar[bool] = False

  queries: int = 512
  keys: int = 512
  interpret: bool = False
  platform: str | None = None

  def __post_init__(self):
    if self.platform is not None:
      self.check_platform(self.platform)
    for name in ('queries', 'keys'):
      side = getattr(self, name)
      if side < LANES or side % LANES:
        raise ValueError(
          f'model.compute.kernel.{name} = {side} is the side of a tile and '
          f'must be a multiple of {LANES}, at least that.'
        )

  def check(self, pattern):
    if reason := _not_reach(pattern):
      raise ValueError(f'model.compute.kernel = splash {reason}. {_INSTEAD}')

  def check_dropout(self, rate):
    if rate:
      raise ValueError(
        f'model.compute.kernel = splash drops no weights, but '
        f'model.dropout.attention = {rate}. Use model.compute.kernel=auto, '
        'which takes one that does, or a rate of 0.'
      )

  def check_platform(self, platform):
    if not self.interpret and platform != 'tpu':
      raise ValueError(
        f'model.compute.kernel = splash runs on TPUs, but this is a {platform}.'
        ' Use model.compute.kernel=auto, which takes it there only.'
      )

  def for_decoding(self):
    return Chunked()

  def __call__(self, sources, dropout):
    self.check_platform(self.platform or jax.default_backend())
    if reason := unsplashable(sources, dropout):
      raise ValueError(f'model.compute.kernel = splash {reason}. {_INSTEAD}')
    (source,) = sources
    q_BTNH, k_BSKH = rotated(source)
    queries, q_side = _tiled(q_BTNH.shape[1], self.queries)
    keys, k_side = _tiled(k_BSKH.shape[1], self.keys)
    arrays = (
      _heads_first(x, length)
      for x, length in ((q_BTNH, queries), (k_BSKH, keys), (source.v, keys))
    )
    held = source.k_at.document >= 0
    k_document = jnp.where(held, source.k_at.document, UNSEEN)
    batch = len(q_BTNH)
    documents = stock.SegmentIds(
      _longer(source.q_at.document, batch, queries, EMPTY),
      _longer(k_document, batch, keys, UNSEEN),
    )
    # Below all logits: felt only by queries that see no key, which get zeros.
    sinks_N = jnp.full(q_BTNH.shape[2], MASKED)
    attend = functools.partial(
      self._kernel(source, (queries, keys), (q_side, k_side)), sinks=sinks_N
    )
    y_BNTH = jax.vmap(attend)(*arrays, documents)
    y_BTNH = jnp.moveaxis(y_BNTH, 1, 2)[:, : source.q.shape[1]]
    return y_BTNH.astype(source.v.dtype)

  def _kernel(self, source, lengths, sides):
    q_side, k_side = sides
    mask = _mask(source.pattern, source.q_at, source.k_at, lengths)
    caps = [s.cap for s in source.scores if isinstance(s, SoftCap)]
    return stock.make_splash_mha_single_device(
      stock.MultiHeadMask([mask] * source.q.shape[2]),
      block_sizes=stock.BlockSizes(
        block_q=q_side,
        block_kv=k_side,
        block_q_dkv=q_side,
        block_kv_dkv=k_side,
        block_q_dq=q_side,
        block_kv_dq=k_side,
      ),
      attn_logits_soft_cap=caps[0] if caps else None,
      interpret=self.interpret,
    )


def unsplashable(
  sources: tuple[Source, ...], dropout: Dropout | None
) -> str | None:
  """Why the stock kernel cannot serve these; None = it can."""
  if len(sources) > 1:
    return f'takes one set of keys, but here are {len(sources)}'
  (source,) = sources
  ats = source.q_at, source.k_at
  if any(at.start is None or at.step != 1 for at in ats):
    return ORDER
  if dropout is not None:
    return 'drops no weights, as model.dropout.attention asks'
  wish = jax.config.jax_default_matmul_precision
  if source.q.dtype.itemsize < 4 and wish not in _MET:
    return (
      f'multiplies {source.q.dtype} as it is, but jax_default_matmul_precision '
      f'= {wish}'
    )
  if _apart(source):
    return 'needs a query that may see a key, but all are too far away'
  others = [s for s in source.scores if not s.only_rotates]
  if len(others) > 1 or not all(isinstance(s, SoftCap) for s in others):
    names = ', '.join(type(s).__name__ for s in others)
    return f'rotates and caps once, but does not know the score of {names}'
  return _not_reach(source.pattern)


def _not_reach(pattern: Pattern) -> str | None:
  if pattern.is_reach:
    return None
  return (
    f'knows causal, window, everything and what they have in common, but not '
    f'{pattern}'
  )


def _apart(source: Source) -> bool:
  """Whether every key is out of every query's reach."""
  (before, after), q_at, k_at = source.pattern.reach, source.q_at, source.k_at
  behind = q_at.start - (k_at.start + k_at.length - 1)  # at the least
  ahead = k_at.start - (q_at.start + q_at.length - 1)
  if before is not None and behind > before:
    return True
  return after is not None and ahead > after


def _mask(
  pattern: Pattern, q_at: Coords, k_at: Coords, lengths: tuple[int, int]
) -> stock.Mask:
  """A rule for the tiles of [T, S], by counts from the first of each."""
  if pattern.reach == (None, None):
    return stock.FullMask(lengths)
  return stock.LocalMask(lengths, tuple(pattern.reach), q_at.start - k_at.start)


def _tiled(length: int, most: int) -> tuple[int, int]:
  """The length in equal tiles, as few as there can be, and their side."""
  count = -(-length // most)
  side = -(-length // (count * LANES)) * LANES
  return count * side, side


def _heads_first(x_BTNH: Array, length: int) -> Array:
  more = length - x_BTNH.shape[1]
  longer = jnp.pad(x_BTNH, ((0, 0), (0, more), (0, 0), (0, 0)))
  return jnp.moveaxis(longer, 1, 2)


def _longer(document: Array, batch: int, length: int, fill: int) -> Array:
  more = length - document.shape[1]
  document = jnp.broadcast_to(document, (batch, document.shape[1]))
  return jnp.pad(document, ((0, 0), (0, more)), constant_values=fill)

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
from lctx.kernels.tiles import equal, longer, longer_coords
from lctx.patterns.base import Pattern
from lctx.positions.cap import SoftCap
from lctx.types import EMPTY, MASKED, Coords

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

  def check_far(self, patterns, memory):
    if patterns:
      raise ValueError(
        'model.compute.kernel = splash serves one set of keys, but '
        f'model.memory = {memory} adds others. {_INSTEAD}'
      )

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
    sides = _side(source.q_at, self.queries), _side(source.k_at, self.keys)
    more_q, more_k = (
      -at.length % side for at, side in zip((source.q_at, source.k_at), sides)
    )
    arrays = (
      jnp.moveaxis(longer(x, more), 1, 2)
      for x, more in ((q_BTNH, more_q), (k_BSKH, more_k), (source.v, more_k))
    )
    q_at = longer_coords(source.q_at, more_q)
    k_at = longer_coords(source.k_at, more_k)
    k_document = jnp.where(k_at.document >= 0, k_at.document, UNSEEN)
    documents = stock.SegmentIds(
      *(
        jnp.broadcast_to(x, (len(q_BTNH), x.shape[1]))
        for x in (q_at.document, k_document)
      )
    )
    # Below all logits: felt only by queries that see no key, which get zeros.
    sinks_N = jnp.full(q_BTNH.shape[2], MASKED)
    kernel = self._kernel(source, _mask(source.pattern, q_at, k_at), sides)
    attend = functools.partial(kernel, sinks=sinks_N)
    y_BNTH = jax.vmap(attend)(*arrays, documents)
    y_BTNH = jnp.moveaxis(y_BNTH, 1, 2)[:, : source.q.shape[1]]
    return y_BTNH.astype(source.v.dtype)

  def _kernel(self, source, mask, sides):
    q_side, k_side = sides
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
  if not source.in_steps:
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


def _mask(pattern: Pattern, q_at: Coords, k_at: Coords) -> stock.Mask:
  """A rule for the tiles of [T, S], by counts from the first of each."""
  lengths = q_at.length, k_at.length
  if pattern.reach == (None, None):
    return stock.FullMask(lengths)
  return stock.LocalMask(lengths, tuple(pattern.reach), q_at.start - k_at.start)


def _side(at: Coords, most: int) -> int:
  """Of equal tiles, as few as there can be."""
  return -(-equal(at.length, most) // LANES) * LANES

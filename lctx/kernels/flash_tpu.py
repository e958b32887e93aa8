"""Attention fused into one kernel for TPUs, relative positions included.

Flash attention (Dao et al. 2022) in Pallas. What Transformer-XL adds to a tile
of T x S logits needs T + S relative keys: they meet the queries inside the
kernel, and each row of their product is rotated into its place. Nothing of
size [T, S] leaves the chip, forward or backward.

Needs a TPU v5 or newer, which can rotate each row by a distance of its own.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lctx.kernels import flash_tpu_backward as backward
from lctx.kernels.flash_merge import merged
from lctx.kernels.flash_tiles import (
  Operands,
  Place,
  Upstream,
  Walk,
  keep,
  logits,
  nearest,
  product,
  specs,
)
from lctx.positions.steps import Plus, Step
from lctx.types import EMPTY, MASKED, Array


class Inputs(NamedTuple):
  """What attention reads. K divides N: head n looks at keys n // (N / K).

  `qr`, `r` and `c` are those of a `Plus`, the step that comes before `steps`;
  queries and `c` are scaled already.
  """

  q: Array  # [B, T, N, H] as it meets keys
  k: Array  # [B, S, K, H]
  v: Array  # [B, S, K, Hv]
  q_place: Array  # int32 [B, 5, T], rows as in `Place`
  k_place: Array  # int32 [B, 5, S]
  qr: Array | None = None  # [B, T, N, Hr]
  r: Array | None = None  # [P, N, Hr]
  c: Array | None = None  # [P, N]
  heads: Array | None = None  # int32 [N]: their numbers; None = from 0
  seeds: Array | None = None  # uint32 [B, N, 2]: dropout's key of each mask
  tables: tuple[Array, ...] = ()  # [N or 1, rows, columns] each: to look up in
  steps: tuple[Step, ...] = ()  # what changes logits, in order

  @property
  def all_steps(self) -> tuple[Step, ...]:
    if self.r is None and self.c is None:
      return self.steps
    return Plus(self.qr, self.r, self.c), *self.steps


@dataclasses.dataclass(frozen=True)
class Flash:
  """Attention by tiles of `queries` x `keys`: multiples of 128.

  `visible(q_at, k_at, head, *look_ups)` makes the mask of a tile, bool [T, S],
  of int32 [T, 1] and [1, S] and a `LookUp` in each of the head's tables; that a
  key is of the same document and not empty is seen to besides. `first` and
  `end`, if given, say for each block of queries which blocks of keys it meets:
  from `first` to `end` - 1; the rest is not computed.
  """

  visible: Callable[..., Array]
  queries: int = 256
  keys: int = 512
  rate: float = 0.0  # of dropout
  first: tuple[int, ...] | None = None
  end: tuple[int, ...] | None = None
  interpret: bool | pltpu.InterpretParams = False

  def __post_init__(self):
    multiple = 8 if self.interpret else 128
    sides = self.queries, self.keys
    assert min(sides) > 0 and not any(side % multiple for side in sides), sides

  def __call__(self, inputs: Inputs) -> Array:
    """[B, T, N, Hv]: softmax over the keys, times values; zeros for none."""
    return attend((self,), (inputs,))

  def forward(self, x: Operands) -> tuple[Array, Array]:
    return _forward(self, x)

  def backward(self, x: Operands, up: Upstream) -> Operands:
    dq, dsteps = backward.of_queries(self, x, up)
    dk, dv = backward.of_keys(self, x, up)
    return Operands(dq, dk, dv, dsteps, *(None,) * 5)

  def walk(self, x: Operands) -> Walk:
    """The blocks of keys that each block of queries meets."""
    blocks = x.q.shape[2] // self.queries
    all_keys = x.k.shape[2] // self.keys
    first = (0,) * blocks if self.first is None else self.first
    end = (all_keys,) * blocks if self.end is None else self.end
    assert len(first) == len(end) == blocks and max(end) <= all_keys
    return Walk(np.array(first, np.int32), np.array(end, np.int32))


def attend(flashes: tuple[Flash, ...], inputs: tuple[Inputs, ...]) -> Array:
  """The same with one softmax over several sets of keys, each by its own rule.

  All have the same queries, in blocks of one size.
  """
  for flash, one in zip(flashes, inputs, strict=True):
    check(flash, one)
  y_BNTH = merged(flashes, tuple(map(laid_out, flashes, inputs)))
  return jnp.moveaxis(y_BNTH, 1, 2)[:, : inputs[0].q.shape[1]]


def hindrance(inputs: Sequence[Inputs]) -> str | None:
  """Why these cannot be here; None = they can."""
  return None


def check(flash, x: Inputs) -> None:
  rows = x.q.shape[1] + x.k.shape[1]
  for step, name in itertools.product(x.all_steps, ('r', 'c')):
    array = getattr(step, name)
    if array is not None and array.shape[0] not in (rows - 1, rows):
      raise ValueError(
        f'{name} has {array.shape[0]} rows, but {x.q.shape[1]} queries and '
        f'{x.k.shape[1]} keys lie {rows - 1} distances apart. Lay it out along '
        'them, one row a distance.'
      )
  if (x.qr is None) != (x.r is None):
    raise ValueError('qr and r meet each other: give both, or neither.')
  if bool(flash.rate) != (x.seeds is not None):
    raise ValueError(
      f'Flash.rate = {flash.rate} and seeds make dropout together: give both, '
      'or neither.'
    )


def laid_out(flash: Flash, x: Inputs) -> Operands:
  """Filled up to whole tiles, heads before the length."""
  more_q, more_k = -x.q.shape[1] % flash.queries, -x.k.shape[1] % flash.keys
  rows = x.q.shape[1] + more_q + x.k.shape[1] + more_k

  def along(x_BLNH, more):
    width = (0, 0), (0, more), (0, 0), (0, 0)
    return jnp.moveaxis(jnp.pad(x_BLNH, width), 2, 1)

  def of_rows(x_P):
    after = rows - more_q - x_P.shape[0]
    width = (more_q, after), *((0, 0),) * (x_P.ndim - 1)
    return jnp.moveaxis(jnp.pad(x_P, width), 0, 1)

  def laid(step):
    qr, r, c, by_query = step.qr, step.r, step.c, step.by_query
    if by_query is not None:
      width = (0, 0), (0, 0), (0, more_q)
      by_query = jnp.pad(by_query.astype(jnp.float32), width)[:, :, None]
    return step.replace(
      qr=None if qr is None else along(qr, more_q),
      r=None if r is None else of_rows(r),
      c=None if c is None else of_rows(c.astype(jnp.float32))[:, None],
      by_query=by_query,
    )

  def place(x_B5L, more):
    x_B5L = jnp.pad(x_B5L, ((0, 0), (0, 0), (0, more)), constant_values=EMPTY)
    return jnp.pad(x_B5L, ((0, 0), (0, 8 - len(Place._fields)), (0, 0)))

  heads = jnp.arange(x.q.shape[2]) if x.heads is None else x.heads
  words = x.seeds
  if words is not None:
    words = jax.lax.bitcast_convert_type(words, jnp.int32).reshape(-1)
  return Operands(
    q=along(x.q, more_q),
    k=along(x.k, more_k),
    v=along(x.v, more_k),
    steps=tuple(map(laid, x.all_steps)),
    q_place=place(x.q_place, more_q),
    k_place=place(x.k_place, more_k),
    heads=heads.astype(jnp.int32),
    seeds=words,
    tables=x.tables,
  )


def _forward(flash: Flash, x: Operands) -> tuple[Array, Array]:
  """y [B, N, T, H], and the log of each row's sum, float32 [B, N, 1, T].

  Of a row that sees nothing that is `MASKED`.
  """
  (batch, heads, length, _), width = x.q.shape, x.v.shape[-1]
  walk, rows = flash.walk(x), flash.queries

  def where(b, n, i, step, *bounds):
    return b, n, i, nearest(*bounds, i, step)

  return pl.pallas_call(
    functools.partial(_forward_kernel, flash),
    name='lctx_flash_forward',
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(batch, heads, length // rows, walk.steps),
      in_specs=[specs(flash, x, where)],
      out_specs=[
        pl.BlockSpec(
          (None, None, rows, width), lambda b, n, i, *_: (b, n, i, 0)
        ),
        pl.BlockSpec((None, None, 1, rows), lambda b, n, i, *_: (b, n, 0, i)),
      ],
      scratch_shapes=[
        pltpu.VMEM((rows, size), jnp.float32) for size in (1, 1, width)
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct((batch, heads, length, width), x.v.dtype),
      jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'parallel', 'arbitrary')
    ),
    interpret=flash.interpret,
  )(*walk, x)


def _forward_kernel(flash, first, end, *refs):
  """The softmax over the keys met so far (Milakov and Gimelshein 2018)."""
  x, y, lse, highest, total, acc = refs
  b, n, i, step = (pl.program_id(axis) for axis in range(4))
  row = b * pl.num_programs(1) + n

  @pl.when(step == 0)
  def _():
    highest[...] = jnp.full_like(highest, MASKED)
    total[...] = jnp.zeros_like(total)
    acc[...] = jnp.zeros_like(acc)

  @pl.when(first[i] + step < end[i])
  def _():
    s_TS = logits(flash, x, n)
    higher_T1 = jnp.maximum(highest[...], s_TS.max(axis=1, keepdims=True))
    fade_T1 = jnp.exp(highest[...] - higher_T1)
    p_TS = jnp.exp(s_TS - higher_T1)
    total[...] = total[...] * fade_T1 + p_TS.sum(axis=1, keepdims=True)
    if flash.rate:
      p_TS *= keep(flash.rate, x, row)
    p_TS = p_TS.astype(x.v.dtype)
    acc[...] = acc[...] * fade_T1 + product(p_TS, x.v[...], (1, 0))
    highest[...] = higher_T1

  @pl.when(step == pl.num_programs(3) - 1)
  def _():
    blind_T1 = highest[...] <= MASKED / 2
    total_T1 = jnp.where(blind_T1, 1, total[...])
    y[...] = jnp.where(blind_T1, 0, acc[...] / total_T1).astype(y.dtype)
    log_T1 = highest[...] + jnp.log(total_T1)
    lse[...] = jnp.where(blind_T1, MASKED, log_T1).T

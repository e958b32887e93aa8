"""Attention fused into one kernel for TPUs, relative positions included.

Flash attention (Dao et al. 2022) in Pallas. What Transformer-XL adds to a tile
of T x S logits needs T + S relative keys: they meet the queries inside the
kernel, and each row of their product is rotated into its place. Nothing of
size [T, S] leaves the chip, forward or backward.

Needs a TPU v5 or newer, which can rotate each row by a distance of its own.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lctx.kernels import flash_tpu_backward as backward
from lctx.kernels.flash import Flash, side
from lctx.kernels.flash_tiles import (
  Operands,
  keep,
  logits,
  nearest,
  product,
  specs,
)
from lctx.types import MASKED, Array


@dataclasses.dataclass(frozen=True)
class TpuFlash(Flash):
  """By tiles whose sides are multiples of 128."""

  queries: int = 256
  keys: int = 512

  @classmethod
  def misfit(cls, queries, keys, interpret):
    multiple = 8 if interpret else 128
    for name, length in (('queries', queries), ('keys', keys)):
      if length < 1 or length % multiple:
        return (
          f'{side(name, length)} and must be a multiple of {multiple} on a '
          'TPU, such as 256.'
        )
    return None

  def forward(self, x):
    return _forward(self, x)

  def backward(self, x, up):
    dq, dsteps = backward.of_queries(self, x, up)
    dk, dv = backward.of_keys(self, x, up)
    return Operands(dq, dk, dv, dsteps, *(None,) * 5)


def _forward(flash: TpuFlash, x: Operands) -> tuple[Array, Array]:
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

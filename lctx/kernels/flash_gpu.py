"""Attention fused into one kernel for GPUs, relative positions included.

Flash attention (Dao et al. 2022) in Pallas for Triton, of the same inputs as
`flash_tpu`. What Transformer-XL adds to a tile of T x S logits needs T + S
relative keys: a program goes along the keys of its queries, each tile makes
what S new relative rows give, and finds the rest where those before it left it
(`flash_gpu_tiles.Strip`). Nothing of size [T, S] is kept, forward or backward.

Needs an NVIDIA GPU of compute capability 8.0 (A100) or newer.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from lctx.kernels import flash_gpu_backward as backward
from lctx.kernels import flash_gpu_tiles as tiles
from lctx.kernels.flash import Flash, side
from lctx.kernels.flash_gpu_rows import of_rows
from lctx.kernels.flash_gpu_tiles import Strip, Tile
from lctx.kernels.flash_tiles import (
  Operands,
  changed,
  product,
)
from lctx.types import MASKED, Array

LEAST = 16  # sides and widths that tensor cores multiply
WIDEST = 128  # heads whose tiles fit into the fast memory of an A100


@dataclasses.dataclass(frozen=True)
class GpuFlash(Flash):
  """By tiles whose sides are powers of two, `keys` at most `queries`.

  `visible` may be asked for [1, T] and [S, 1] too.
  """

  queries: int = 64
  keys: int = 64

  @classmethod
  def misfit(cls, queries, keys, interpret):
    least = 4 if interpret else LEAST
    for name, length in (('queries', queries), ('keys', keys)):
      if length < least or length & (length - 1):
        return (
          f'{side(name, length)} and must be a power of two on a GPU, {least} '
          'or more, such as 64.'
        )
    if keys > queries:
      return (
        f'model.compute.kernel.keys = {keys} are more than its queries = '
        f'{queries}. On a GPU, use at most as many.'
      )
    return None

  @classmethod
  def hindrance(cls, inputs):
    widest = max(max(x.q.shape[-1], x.v.shape[-1]) for x in inputs)
    if widest > WIDEST:
      return (
        f'takes heads of at most {WIDEST} numbers on a GPU, but they have '
        f'{widest}'
      )
    if any(step.r is not None for x in inputs for step in x.steps):
      return (
        'meets relative keys before all else on a GPU, but here other scores '
        'come first'
      )
    if jax.default_backend() == 'gpu':
      capability = jax.local_devices()[0].compute_capability
      if not re.match(r'([89]|\d\d)\.', capability):
        return (
          'needs an NVIDIA GPU of compute capability 8.0 or newer, but this '
          f'one has {capability}'
        )
    return None

  def widened(self, x):
    assert all(step.r is None for step in x.steps)

    def wide(x_H):
      if x_H is None:
        return None
      width = max(LEAST, pl.next_power_of_2(x_H.shape[-1])) - x_H.shape[-1]
      return jnp.pad(x_H, (*((0, 0),) * (x_H.ndim - 1), (0, width)))

    names = 'q', 'k', 'v', 'qr', 'r'
    return x._replace(**{name: wide(getattr(x, name)) for name in names})

  def forward(self, x):
    return _forward(self, x)

  def backward(self, x, up):
    dq, dsteps = backward.of_queries(self, x, up)
    dk, dv = backward.of_keys(self, x, up)
    dsteps = tuple(
      dstep.replace(r=dr, c=dc)
      for dstep, (dr, dc) in zip(dsteps, of_rows(self, x, up), strict=True)
    )
    return Operands(dq, dk, dv, dsteps, *(None,) * 5)

  def call(self, kernel, name: str, grid, strip: bool, warps: int):
    """A `pallas_call` of a kernel, with what the compiler must know.

    It may fetch operands ahead, but not with a strip, whose contents are made
    in between. Half as many `warps` would run out of registers.
    """
    return functools.partial(
      pl.pallas_call,
      functools.partial(kernel, self),
      name=name,
      grid=grid,
      compiler_params=plgpu.CompilerParams(
        num_warps=warps, num_stages=1 if strip else 2
      ),
      interpret=self.interpret,
    )


def _forward(flash: GpuFlash, x: Operands) -> tuple[Array, Array]:
  (batch, heads, length, _), width = x.q.shape, x.v.shape[-1]
  grid = length // flash.queries, heads, batch
  strip = tiles.relative(x).r is not None
  warps = tiles.warps(x)
  call = flash.call(_forward_kernel, 'lctx_flash_forward', grid, strip, warps)
  y_BNTH, lse_BN1T, _ = call(
    out_shape=(
      jax.ShapeDtypeStruct((batch, heads, length, width), x.v.dtype),
      jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
      tiles.strips(flash, np.prod(grid)) if strip else None,
    )
  )(*flash.walk(x), x)
  return y_BNTH, lse_BN1T


def _forward_kernel(flash, first, end, x, y, lse, memory):
  """The softmax over the keys met so far (Milakov and Gimelshein 2018)."""
  rows, heads = flash.queries, x.q.shape[1]
  blocks = x.q.shape[2] // rows
  n, b = pl.program_id(1), pl.program_id(2)
  i = blocks - 1 - pl.program_id(0)  # those that see most begin
  of_block = functools.partial(Tile, flash, x, b, n, i)
  q_TH = tiles.of_queries(of_block(first[i]), x.q)
  strip = Strip(memory, (b * heads + n) * blocks + i, flash.interpret)
  qr_TH = backward.start(of_block(first[i]), strip)

  def step(j, carry):
    highest_T, total_T, acc_TH = carry
    tile = of_block(j)
    k_SH, v_SH = (tiles.of_keys(tile, a) for a in (x.k, x.v))
    terms = tiles.terms(tile, strip, qr_TH, (rows,))
    s_TS = changed(x.steps, product(q_TH, k_SH, (1, 1)), terms)
    s_TS = tiles.hidden(tile, s_TS)
    higher_T = jnp.maximum(highest_T, s_TS.max(axis=1))
    fade_T = jnp.exp(highest_T - higher_T)
    p_TS = jnp.exp(s_TS - higher_T[:, None])
    total_T = total_T * fade_T + p_TS.sum(axis=1)
    if flash.rate:
      p_TS *= tiles.keep(tile)
    p_TS = p_TS.astype(v_SH.dtype)
    acc_TH = acc_TH * fade_T[:, None] + product(p_TS, v_SH, (1, 0))
    return higher_T, total_T, acc_TH

  carry = (
    jnp.full(rows, MASKED, jnp.float32),
    jnp.zeros(rows, jnp.float32),
    jnp.zeros((rows, x.v.shape[-1]), jnp.float32),
  )
  highest_T, total_T, acc_TH = jax.lax.fori_loop(first[i], end[i], step, carry)
  blind_T = highest_T <= MASKED / 2
  total_T = jnp.where(blind_T, 1.0, total_T)
  y_TH = jnp.where(blind_T[:, None], 0.0, acc_TH / total_T[:, None])
  here = pl.ds(i * rows, rows)
  y[b, n, here, :] = y_TH.astype(y.dtype)
  lse[b, n, 0, here] = jnp.where(blind_T, MASKED, highest_T + jnp.log(total_T))

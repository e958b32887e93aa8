"""Gradients of fused attention on GPUs: of queries and of keys.

Each kernel makes the tiles again and sums in one order, so the same step gives
the same bits: no two programs add to one number. A program stays with a block
of queries and meets their keys, or with a block of keys and meets their
queries; `flash_gpu_rows` has what goes along diagonals.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from lctx.kernels import flash_gpu_tiles as tiles
from lctx.kernels.flash_gpu_tiles import Strip, Tile
from lctx.kernels.flash_tiles import Operands, Upstream, product
from lctx.positions.steps import Step
from lctx.types import Array


def start(flash, x: Operands, strip: Strip, tile: Tile, qr_TH: Array) -> None:
  """Puts the T relative rows that the first tile does not make itself."""
  step, row = tiles.relative(x), tiles.first_row(flash, x, tile)
  for more in range(0, flash.queries, flash.keys):
    part_TS = tiles.by_row(flash, step, tile.n, qr_TH, row + more)
    strip.put(part_TS, row + more)


def of_queries(
  flash, x: Operands, up: Upstream
) -> tuple[Array, tuple[Step, ...]]:
  """Gradients of `q`, and of each step's `qr` and `by_query`."""
  batch, heads, length, _ = x.q.shape
  grid = length // flash.queries, heads, batch
  strip = tiles.relative(x).r is not None
  name, warps = 'lctx_flash_of_queries', tiles.warps(x)
  own = x.q, tuple(step.replace(r=None, c=None) for step in x.steps)
  dq, dsteps, _ = flash.call(_of_queries_kernel, name, grid, strip, warps)(
    out_shape=(
      *jax.tree.map(_like, own),
      tiles.strips(flash, 2 * np.prod(grid)) if strip else None,
    )
  )(*flash.walk(x), x, up)
  return dq, dsteps


def _of_queries_kernel(flash, first, end, x, up, dq, dsteps, memory):
  rows, columns, heads = flash.queries, flash.keys, x.q.shape[1]
  blocks = x.q.shape[2] // rows
  n, b = pl.program_id(1), pl.program_id(2)
  i = blocks - 1 - pl.program_id(0)
  tile, qr_TH = Tile(b, n, i, first[i]), None
  q_TH, dy_TH = (tiles.of_queries(flash, a, tile) for a in (x.q, up.dy))
  program = 2 * ((b * heads + n) * blocks + i)
  strip = Strip(memory, program, flash.interpret)
  turned = strip._replace(program=program + 1)
  if (met := tiles.relative(x)).r is not None:
    qr_TH = tiles.of_queries(flash, met.qr, tile)
    start(flash, x, strip, tile, qr_TH)

  def step(j, carry):
    dq_TH, dqr_TH, dby_query = carry
    tile = Tile(b, n, i, j)
    k_SH, v_SH = (tiles.of_keys(flash, a, tile, heads) for a in (x.k, x.v))
    s_TS = product(q_TH, k_SH, (1, 1))
    terms = tiles.terms(flash, x, strip, tile, qr_TH, (rows,))
    dp_TS = product(dy_TH, v_SH, (1, 1))
    _, ds_TS, dterms = tiles.found(flash, x, up, tile, s_TS, terms, dp_TS)
    dq_TH += product(ds_TS.astype(k_SH.dtype), k_SH, (1, 0))
    if met.r is not None:
      turned.put_skewed(dterms[0], tiles.first_row(flash, x, tile))
      turned.meet()
      low = (first[i] - j) * columns  # the first tile has none before it
      dqr_TH += _of_qr(flash, x, turned, tile, 0, low, columns)
    dby_query = [
      None if sum_T is None else sum_T + dterm_TS.sum(axis=1)
      for sum_T, dterm_TS in zip(dby_query, dterms, strict=True)
    ]
    return dq_TH, dqr_TH, dby_query

  def zeros(array):
    shape = rows, array.shape[-1]
    return jnp.zeros(shape, jnp.float32)

  sums = (
    zeros(x.q),
    None if met.qr is None else zeros(met.qr),
    [
      None if step.by_query is None else jnp.zeros(rows, jnp.float32)
      for step in x.steps
    ],
  )
  dq_TH, dqr_TH, dby_query = jax.lax.fori_loop(first[i], end[i], step, sums)
  here = pl.ds(i * rows, rows)
  dq[b, n, here, :] = dq_TH.astype(dq.dtype)
  for dstep, sum_T in zip(dsteps, dby_query, strict=True):
    if sum_T is not None:
      dstep.by_query[b, n, 0, here] = sum_T
  if met.r is None:
    return
  tile, low = Tile(b, n, i, end[i]), (first[i] - end[i]) * columns
  for more in range(0, rows, columns):
    dqr_TH += _of_qr(flash, x, turned, tile, more, low, 0)
  dqr = dsteps[0].qr
  dqr[b, n, here, :] = dqr_TH.astype(dqr.dtype)


def _of_qr(flash, x, turned, tile, more, low, high):
  """The part of dqr [T, H] by S relative rows, `more` after a tile's first."""
  step, row = tiles.relative(x), tiles.first_row(flash, x, tile)
  ds_TS = turned.take(row, more, flash.keys, low, high)
  r_SH = step.r[tile.n, pl.ds(row + more, flash.keys), :]
  return product(ds_TS.astype(step.qr.dtype), r_SH, (1, 0))


def of_keys(flash, x: Operands, up: Upstream) -> tuple[Array, Array]:
  """Gradients of `k` and `v`, summed over the heads that share them."""
  batch, key_heads, length, _ = x.k.shape
  grid = length // flash.keys, key_heads, batch
  strip = tiles.relative(x).r is not None
  name, warps = 'lctx_flash_of_keys', tiles.warps(x)
  dk, dv, _ = flash.call(_of_keys_kernel, name, grid, strip, warps)(
    out_shape=(
      _like(x.k),
      _like(x.v),
      tiles.strips(flash, np.prod(grid)) if strip else None,
    )
  )(*flash.walk(x).turned(grid[0]), x, up)
  return dk, dv


def _of_keys_kernel(flash, first, end, x, up, dk, dv, memory):
  """Tiles lie on their side: products of [S, T] need no turning."""
  columns, (_, key_heads, length, _) = flash.keys, x.k.shape
  blocks, heads = length // columns, x.q.shape[1]
  group = heads // key_heads
  j, k, b = (pl.program_id(axis) for axis in range(3))
  here = pl.ds(j * columns, columns)
  k_SH, v_SH = x.k[b, k, here, :], x.v[b, k, here, :]
  strip = Strip(memory, (b * key_heads + k) * blocks + j, flash.interpret)

  def of_head(g, carry):
    def step(i, carry):
      dk_SH, dv_SH = carry
      tile, qr_TH = Tile(b, k * group + g, i, j), None
      q_TH, dy_TH = (tiles.of_queries(flash, a, tile) for a in (x.q, up.dy))
      if (met := tiles.relative(x)).r is not None:
        qr_TH = tiles.of_queries(flash, met.qr, tile)
      s_ST = product(k_SH, q_TH, (1, 1))
      window = tiles.window(flash)
      terms = tiles.terms(flash, x, strip, tile, qr_TH, window, axis=1)
      dp_ST = product(v_SH, dy_TH, (1, 1))
      kept_ST, ds_ST, _ = tiles.found(
        flash, x, up, tile, s_ST, terms, dp_ST, axis=1
      )
      dk_SH += product(ds_ST.astype(q_TH.dtype), q_TH, (1, 0))
      dv_SH += product(kept_ST.astype(dy_TH.dtype), dy_TH, (1, 0))
      return dk_SH, dv_SH

    return jax.lax.fori_loop(first[j], end[j], step, carry)

  sums = tuple(
    jnp.zeros((columns, a.shape[-1]), jnp.float32) for a in (x.k, x.v)
  )
  dk_SH, dv_SH = jax.lax.fori_loop(0, group, of_head, sums)
  dk[b, k, here, :] = dk_SH.astype(dk.dtype)
  dv[b, k, here, :] = dv_SH.astype(dv.dtype)


def _like(array):
  if array is None:
    return None
  return jax.ShapeDtypeStruct(array.shape, array.dtype)

"""Gradients of fused attention on GPUs: of queries and of keys.

Each kernel makes the tiles again and sums in one order, so the same step gives
the same bits: no two programs add to one number. A program stays with a block
of queries and meets their keys, or with a block of keys and meets their
queries; `flash_gpu_rows` has what goes along diagonals.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from lctx.kernels import flash_gpu_tiles as tiles
from lctx.kernels.flash_gpu_tiles import Strip, Tile
from lctx.kernels.flash_tiles import Operands, Upstream, product
from lctx.positions.steps import Step
from lctx.types import Array


def start(tile: Tile, strip: Strip) -> Array | None:
  """Puts the T relative rows that the first tile does not make itself.

  Returns the queries that meet relative rows, if any does.
  """
  qr_TH, flash = tiles.relative_queries(tile), tile.flash
  if qr_TH is not None:
    row = tiles.first_row(tile)
    for more in range(0, flash.queries, flash.keys):
      strip.put(tiles.by_row(tile, qr_TH, row + more), row + more)
  return qr_TH


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
  n, b, blocks = pl.program_id(1), pl.program_id(2), x.q.shape[2] // rows
  i = blocks - 1 - pl.program_id(0)
  of_block = functools.partial(Tile, flash, x, b, n, i)
  q_TH, dy_TH = (tiles.of_queries(of_block(first[i]), a) for a in (x.q, up.dy))
  strip = Strip(memory, 2 * ((b * heads + n) * blocks + i), flash.interpret)
  turned = strip._replace(program=strip.program + 1)
  qr_TH = start(of_block(first[i]), strip)

  def step(j, sums):
    tile = of_block(j)
    k_SH, v_SH = (tiles.of_keys(tile, a) for a in (x.k, x.v))
    s_TS = product(q_TH, k_SH, (1, 1))
    terms = tiles.terms(tile, strip, qr_TH, (rows,))
    dp_TS = product(dy_TH, v_SH, (1, 1))
    _, ds_TS, dterms = tiles.found(tile, up, s_TS, terms, dp_TS)
    dq_TH = sums.q + product(ds_TS.astype(k_SH.dtype), k_SH, (1, 0))
    dqr_TH = sums.qr
    if qr_TH is not None:
      turned.put_skewed(dterms[0], tiles.first_row(tile))
      turned.meet()
      low = (first[i] - j) * columns  # the first tile has none before it
      dqr_TH += _of_qr(tile, turned, 0, low, columns)
    by_query = [
      None if sum_T is None else sum_T + dterm_TS.sum(axis=1)
      for sum_T, dterm_TS in zip(sums.by_query, dterms, strict=True)
    ]
    return Sums(dq_TH, dqr_TH, by_query)

  sums = jax.lax.fori_loop(first[i], end[i], step, _nothing(rows, x))
  here = pl.ds(i * rows, rows)
  dq[b, n, here, :] = sums.q.astype(dq.dtype)
  for dstep, sum_T in zip(dsteps, sums.by_query, strict=True):
    if sum_T is not None:
      dstep.by_query[b, n, 0, here] = sum_T
  if qr_TH is not None:
    dqr_TH, low = sums.qr, (first[i] - end[i]) * columns
    for more in range(0, rows, columns):
      dqr_TH += _of_qr(of_block(end[i]), turned, more, low, 0)
    dsteps[0].qr[b, n, here, :] = dqr_TH.astype(dsteps[0].qr.dtype)


class Sums(NamedTuple):
  """Gradients of a block of queries, by the tiles met so far."""

  q: Array  # [T, H]
  qr: Array | None  # [T, H]
  by_query: list[Array | None]  # [T] each


def _nothing(rows: int, x: Operands) -> Sums:
  def zeros(array, *width):
    return None if array is None else jnp.zeros((rows, *width), jnp.float32)

  qr = tiles.relative(x).qr
  return Sums(
    zeros(x.q, x.q.shape[-1]),
    None if qr is None else zeros(qr, qr.shape[-1]),
    [zeros(step.by_query) for step in x.steps],
  )


def _of_qr(tile, turned, more, low, high):
  """The part of dqr [T, H] by S relative rows, `more` after a tile's first."""
  step, row, keys = (
    tiles.relative(tile.x),
    tiles.first_row(tile),
    tile.flash.keys,
  )
  ds_TS = turned.take(row, more, keys, low, high)
  r_SH = step.r[tile.n, pl.ds(row + more, keys), :]
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
      tile = Tile(flash, x, b, k * group + g, i, j)
      q_TH, dy_TH = (tiles.of_queries(tile, a) for a in (x.q, up.dy))
      qr_TH = tiles.relative_queries(tile)
      s_ST = product(k_SH, q_TH, (1, 1))
      terms = tiles.terms(tile, strip, qr_TH, tiles.window(flash), axis=1)
      dp_ST = product(v_SH, dy_TH, (1, 1))
      kept_ST, ds_ST, _ = tiles.found(tile, up, s_ST, terms, dp_ST, axis=1)
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

"""Gradients of fused attention on GPUs: of queries, of keys, of relative rows.

Each kernel makes the tiles again and sums in one order, so the same step gives
the same bits: no two programs add to one number. A program stays with a block
of queries and meets their keys, with a block of keys and meets their queries,
or with a diagonal of tiles, which share their T + S relative rows. The windows
of neighbouring diagonals overlap, so each gives a part of the gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from lctx.kernels import flash_gpu_tiles as tiles
from lctx.kernels.flash_gpu_tiles import Operands, Strip, Tile
from lctx.kernels.flash_tiles import Upstream, Walk, product
from lctx.types import Array


def start(flash, x: Operands, strip: Strip, tile: Tile, qr_TH: Array) -> None:
  """Puts the T relative rows that the first tile does not make itself."""
  row = tiles.first_row(flash, x, tile)
  for more in range(0, flash.queries, flash.keys):
    part_TS = tiles.by_row(flash, x, tile.n, qr_TH, row + more)
    strip.put(part_TS, row + more)


def of_queries(flash, x: Operands, up: Upstream) -> tuple[Array, Array | None]:
  """Gradients of `q` and `qr`."""
  batch, heads, length, _ = x.q.shape
  grid = length // flash.queries, heads, batch
  strip = x.r is not None
  name, warps = 'lctx_flash_of_queries', tiles.warps(x)
  dq, dqr, _ = flash.call(_of_queries_kernel, name, grid, strip, warps)(
    out_shape=(
      _like(x.q),
      _like(x.qr),
      tiles.strips(flash, 2 * np.prod(grid)) if strip else None,
    )
  )(*flash.walk(x), x, up)
  return dq, dqr


def _of_queries_kernel(flash, first, end, x, up, dq, dqr, memory):
  rows, columns, heads = flash.queries, flash.keys, x.q.shape[1]
  blocks = x.q.shape[2] // rows
  n, b = pl.program_id(1), pl.program_id(2)
  i = blocks - 1 - pl.program_id(0)
  tile, qr_TH = Tile(b, n, i, first[i]), None
  q_TH, dy_TH = (tiles.of_queries(flash, a, tile) for a in (x.q, up.dy))
  program = 2 * ((b * heads + n) * blocks + i)
  strip = Strip(memory, program, flash.interpret)
  turned = strip._replace(program=program + 1)
  if x.r is not None:
    qr_TH = tiles.of_queries(flash, x.qr, tile)
    start(flash, x, strip, tile, qr_TH)

  def step(j, carry):
    dq_TH, dqr_TH = carry
    tile = Tile(b, n, i, j)
    k_SH, v_SH = (tiles.of_keys(flash, a, tile, heads) for a in (x.k, x.v))
    s_TS = product(q_TH, k_SH, (1, 1))
    term_TS = tiles.relative(flash, x, strip, tile, qr_TH, (rows,))
    if term_TS is not None:
      s_TS += term_TS
    dp_TS = product(dy_TH, v_SH, (1, 1))
    ds_TS = tiles.found(flash, x, up, tile, s_TS, dp_TS).ds
    dq_TH += product(ds_TS.astype(k_SH.dtype), k_SH, (1, 0))
    if x.r is not None:
      turned.put_skewed(ds_TS, tiles.first_row(flash, x, tile))
      turned.meet()
      low = (first[i] - j) * columns  # the first tile has none before it
      dqr_TH += _of_qr(flash, x, turned, tile, 0, low, columns)
    return dq_TH, dqr_TH

  sums = tuple(
    None if a is None else jnp.zeros((rows, a.shape[-1]), jnp.float32)
    for a in (x.q, x.qr)
  )
  dq_TH, dqr_TH = jax.lax.fori_loop(first[i], end[i], step, sums)
  here = pl.ds(i * rows, rows)
  dq[b, n, here, :] = dq_TH.astype(dq.dtype)
  if x.r is None:
    return
  tile, low = Tile(b, n, i, end[i]), (first[i] - end[i]) * columns
  for more in range(0, rows, columns):
    dqr_TH += _of_qr(flash, x, turned, tile, more, low, 0)
  dqr[b, n, here, :] = dqr_TH.astype(dqr.dtype)


def _of_qr(flash, x, turned, tile, more, low, high):
  """The part of dqr [T, H] by S relative rows, `more` after a tile's first."""
  row = tiles.first_row(flash, x, tile)
  ds_TS = turned.take(row, more, flash.keys, low, high)
  r_SH = x.r[tile.n, pl.ds(row + more, flash.keys), :]
  return product(ds_TS.astype(x.qr.dtype), r_SH, (1, 0))


def of_keys(flash, x: Operands, up: Upstream) -> tuple[Array, Array]:
  """Gradients of `k` and `v`, summed over the heads that share them."""
  batch, key_heads, length, _ = x.k.shape
  grid = length // flash.keys, key_heads, batch
  strip = x.r is not None
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
      if x.r is not None:
        qr_TH = tiles.of_queries(flash, x.qr, tile)
      s_ST = product(k_SH, q_TH, (1, 1))
      fresh = tiles.window(flash)
      term_ST = tiles.relative(flash, x, strip, tile, qr_TH, fresh, axis=1)
      if term_ST is not None:
        s_ST += term_ST
      dp_ST = product(v_SH, dy_TH, (1, 1))
      kept_ST, ds_ST = tiles.found(flash, x, up, tile, s_ST, dp_ST, axis=1)
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


def of_rows(
  flash, x: Operands, up: Upstream
) -> tuple[Array | None, Array | None]:
  """Gradients of `r` and `c`."""
  if x.r is None and x.c is None:
    return None, None
  batch, heads, length, _ = x.q.shape
  lowest, walk = _diagonals(flash, x)
  grid = len(walk.first), heads, batch
  kernel = functools.partial(_of_rows_kernel, lowest)

  def parts(array, *width):
    shape = len(tiles.window(flash)), batch, heads, grid[0], flash.keys, *width
    return None if array is None else jax.ShapeDtypeStruct(shape, jnp.float32)

  dr, dc, _ = flash.call(kernel, 'lctx_flash_of_rows', grid, True, warps=8)(
    out_shape=(
      parts(x.r, *(() if x.r is None else x.r.shape[2:])),
      parts(x.c),
      tiles.strips(flash, np.prod(grid)),
    )
  )(*walk, x, up)

  def whole(parts_B):
    """[N, P, ...], of parts [B, N, diagonals, S, ...]."""
    total, rows = 0, length + x.k.shape[2]
    for more, part_B in zip(tiles.window(flash), parts_B, strict=True):
      part = part_B.sum(axis=0)
      part = part.reshape(heads, -1, *part.shape[3:])
      before = lowest * flash.keys + more
      after = rows - before - part.shape[1]
      width = (0, 0), (before, after), *((0, 0),) * (part.ndim - 2)
      total += jnp.pad(part, width)
    return total

  return (
    None if dr is None else whole(dr).astype(x.r.dtype),
    None if dc is None else whole(dc)[:, None],
  )


def _diagonals(flash, x: Operands) -> tuple[int, Walk]:
  """The lowest diagonal that has tiles, and the queries of it and the rest.

  Tile (i, j) is on diagonal (blocks - 1 - i) * T / S + j.
  """
  walk = flash.walk(x)
  blocks, times = len(walk.first), flash.queries // flash.keys
  i = np.arange(blocks)
  start = (blocks - 1 - i) * times
  some = walk.first < walk.end
  if not some.any():
    return 0, Walk(*np.zeros((2, 1), np.int32))
  lowest = int((start + walk.first)[some].min())
  highest = int((start + walk.end)[some].max())
  met = Walk(start + walk.first - lowest, start + walk.end - lowest)
  return lowest, met.turned(highest - lowest)


def _of_rows_kernel(lowest, flash, first, end, x, up, dr, dc, memory):
  rows, keys, heads = flash.queries, flash.keys, x.q.shape[1]
  blocks, window = x.q.shape[2] // rows, tiles.window(flash)
  d, n, b = (pl.program_id(axis) for axis in range(3))
  program = (b * heads + n) * first.shape[0] + d
  strip = Strip(memory, program, flash.interpret)

  def step(i, sums):
    j = lowest + d - (blocks - 1 - i) * (rows // keys)
    tile, qr_TH = Tile(b, n, i, j), None
    q_TH, dy_TH = (tiles.of_queries(flash, a, tile) for a in (x.q, up.dy))
    if x.r is not None:
      qr_TH = tiles.of_queries(flash, x.qr, tile)
    k_SH, v_SH = (tiles.of_keys(flash, a, tile, heads) for a in (x.k, x.v))
    s_TS = product(q_TH, k_SH, (1, 1))
    s_TS += tiles.relative(flash, x, strip, tile, qr_TH, window)
    dp_TS = product(dy_TH, v_SH, (1, 1))
    ds_TS = tiles.found(flash, x, up, tile, s_TS, dp_TS).ds
    row = tiles.first_row(flash, x, tile)
    strip.meet()
    strip.put_skewed(ds_TS, row)
    strip.meet()
    return [
      _of_part(sum_, strip.take(row, more, keys, 0, keys), qr_TH)
      for more, sum_ in zip(window, sums, strict=True)
    ]

  sums = [
    (
      None if dr is None else jnp.zeros((keys, dr.shape[-1]), jnp.float32),
      None if dc is None else jnp.zeros(keys, jnp.float32),
    )
    for _ in window
  ]
  sums = jax.lax.fori_loop(first[d], end[d], step, sums)
  for part, (dr_SH, dc_S) in enumerate(sums):
    if dr is not None:
      dr[part, b, n, d] = dr_SH
    if dc is not None:
      dc[part, b, n, d] = dc_S


def _of_part(sums, ds_TS, qr_TH):
  """What a tile adds to its S relative rows and their constants."""
  dr_SH, dc_S = sums
  if dr_SH is not None:
    dr_SH += product(ds_TS.astype(qr_TH.dtype), qr_TH, (0, 0))
  return dr_SH, None if dc_S is None else dc_S + ds_TS.sum(axis=0)


def _like(array):
  if array is None:
    return None
  return jax.ShapeDtypeStruct(array.shape, array.dtype)

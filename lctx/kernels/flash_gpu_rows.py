"""Gradients of relative rows and their constants, for fused attention on GPUs.

A program makes the tiles of one diagonal again, which share their T + S rows.
The windows of neighbouring diagonals overlap, so each gives a part.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from lctx.kernels import flash_gpu_tiles as tiles
from lctx.kernels.flash_gpu_tiles import Strip, Tile
from lctx.kernels.flash_tiles import Operands, Upstream, Walk, product
from lctx.positions.steps import Step
from lctx.types import Array


def of_rows(
  flash, x: Operands, up: Upstream
) -> list[tuple[Array | None, Array | None]]:
  """Gradients of each step's `r` and `c`."""
  if not any(map(_has_rows, x.steps)):
    return [(None, None) for _ in x.steps]
  batch, heads, length, _ = x.q.shape
  lowest, walk = _diagonals(flash, x)
  grid = len(walk.first), heads, batch
  kernel = functools.partial(_of_rows_kernel, lowest)

  def parts(array, *width):
    shape = len(tiles.window(flash)), batch, heads, grid[0], flash.keys, *width
    return None if array is None else jax.ShapeDtypeStruct(shape, jnp.float32)

  def of_step(step):
    width = () if step.r is None else step.r.shape[2:]
    r, c = parts(step.r, *width), parts(step.c)
    return step.replace(qr=None, r=r, c=c, by_query=None)

  dsteps, _ = flash.call(kernel, 'lctx_flash_of_rows', grid, True, warps=8)(
    out_shape=(
      tuple(map(of_step, x.steps)),
      tiles.strips(flash, np.prod(grid)),
    )
  )(*walk, x, up)

  def whole(parts_B):
    """[N, P, ...], of parts [B, N, diagonals, S, ...]."""
    firsts = (lowest * flash.keys + more for more in tiles.window(flash))
    rows = length + x.k.shape[2]
    return sum(map(functools.partial(_laid, rows), firsts, parts_B))

  return [
    (
      None if dstep.r is None else whole(dstep.r).astype(step.r.dtype),
      None if dstep.c is None else whole(dstep.c)[:, None],
    )
    for step, dstep in zip(x.steps, dsteps, strict=True)
  ]


def _laid(rows: int, first: int, part_B: Array) -> Array:
  """[N, rows, ...], of a part [B, N, diagonals, S, ...] whose rows follow."""
  part = part_B.sum(axis=0)
  part = part.reshape(len(part), -1, *part.shape[3:])
  after = rows - first - part.shape[1]
  return jnp.pad(part, ((0, 0), (first, after), *((0, 0),) * (part.ndim - 2)))


def _has_rows(step: Step) -> bool:
  return step.r is not None or step.c is not None


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


def _of_rows_kernel(lowest, flash, first, end, x, up, dsteps, memory):
  rows, keys, heads = flash.queries, flash.keys, x.q.shape[1]
  blocks, window = x.q.shape[2] // rows, tiles.window(flash)
  d, n, b = (pl.program_id(axis) for axis in range(3))
  program = (b * heads + n) * first.shape[0] + d
  strip = Strip(memory, program, flash.interpret)

  def step(i, sums):
    j = lowest + d - (blocks - 1 - i) * (rows // keys)
    tile = Tile(flash, x, b, n, i, j)
    q_TH, dy_TH = (tiles.of_queries(tile, a) for a in (x.q, up.dy))
    qr_TH = tiles.relative_queries(tile)
    k_SH, v_SH = (tiles.of_keys(tile, a) for a in (x.k, x.v))
    s_TS = product(q_TH, k_SH, (1, 1))
    terms = tiles.terms(tile, strip, qr_TH, window)
    dp_TS = product(dy_TH, v_SH, (1, 1))
    dterms = tiles.found(tile, up, s_TS, terms, dp_TS).dterms
    return [
      _of_step(tile, strip, dterm_TS, qr_TH, parts)
      for dterm_TS, parts in zip(dterms, sums, strict=True)
    ]

  def zeros(dstep):
    dr, dc = dstep.r, dstep.c
    return (
      None if dr is None else jnp.zeros((keys, dr.shape[-1]), jnp.float32),
      None if dc is None else jnp.zeros(keys, jnp.float32),
    )

  sums = [[zeros(dstep) for _ in window] for dstep in dsteps]
  sums = jax.lax.fori_loop(first[d], end[d], step, sums)
  for dstep, parts in zip(dsteps, sums, strict=True):
    for part, (dr_SH, dc_S) in enumerate(parts):
      if dr_SH is not None:
        dstep.r[part, b, n, d] = dr_SH
      if dc_S is not None:
        dstep.c[part, b, n, d] = dc_S


def _of_step(tile, strip, dterm_TS, qr_TH, parts):
  """What a tile adds to the parts of a step's window."""
  if dterm_TS is None:
    return parts
  keys, row = tile.flash.keys, tiles.first_row(tile)
  strip.meet()
  strip.put_skewed(dterm_TS, row)
  strip.meet()
  return [
    _of_part(part, strip.take(row, more, keys, 0, keys), qr_TH)
    for more, part in zip(tiles.window(tile.flash), parts, strict=True)
  ]


def _of_part(sums, ds_TS, qr_TH):
  """What a tile adds to its S relative rows and their constants."""
  dr_SH, dc_S = sums
  if dr_SH is not None:
    dr_SH += product(ds_TS.astype(qr_TH.dtype), qr_TH, (0, 0))
  return dr_SH, None if dc_S is None else dc_S + ds_TS.sum(axis=0)

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
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from lctx.kernels import flash_gpu_backward as backward
from lctx.kernels import flash_gpu_tiles as tiles
from lctx.kernels.flash_gpu_tiles import Operands, Strip, Tile
from lctx.kernels.flash_tiles import Place, Upstream, Walk, product
from lctx.kernels.flash_tpu import Inputs, check
from lctx.positions.steps import Cap
from lctx.types import EMPTY, MASKED, Array

LEAST = 16  # sides and widths that tensor cores multiply
WIDEST = 128  # heads whose tiles fit into the fast memory of an A100


@dataclasses.dataclass(frozen=True)
class Flash:
  """Attention by tiles of `queries` x `keys`: powers of two from 16 on.

  `keys` is at most `queries`. The other fields are those of `flash_tpu.Flash`,
  but `visible` may be asked for [1, T] and [S, 1] too.
  """

  visible: Callable[[Place, Place, Array], Array]
  queries: int = 64
  keys: int = 64
  cap: float | None = None
  rate: float = 0.0
  first: tuple[int, ...] | None = None
  end: tuple[int, ...] | None = None
  interpret: bool = False

  def __post_init__(self):
    least = 1 if self.interpret else LEAST
    sides = self.queries, self.keys
    assert not any(side & (side - 1) for side in sides), sides
    assert least <= self.keys <= self.queries, sides

  def __call__(self, inputs: Inputs) -> Array:
    """[B, T, N, Hv]: softmax over the keys, times values; zeros for none."""
    check(self, inputs)
    for step in inputs.steps:
      self = dataclasses.replace(self, cap=step.cap)
    y_BNTH = _attend(self, _laid_out(self, inputs))
    _, length, _, width = *inputs.q.shape[:3], inputs.v.shape[3]
    return jnp.moveaxis(y_BNTH, 1, 2)[:, :length, :, :width]

  def walk(self, x: Operands) -> Walk:
    """The blocks of keys that each block of queries meets."""
    blocks = x.q.shape[2] // self.queries
    all_keys = x.k.shape[2] // self.keys
    first = (0,) * blocks if self.first is None else self.first
    end = (all_keys,) * blocks if self.end is None else self.end
    assert len(first) == len(end) == blocks and max(end) <= all_keys
    return Walk(np.array(first, np.int32), np.array(end, np.int32))

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


def attend(flashes: Sequence[Flash], inputs: Sequence[Inputs]) -> Array:
  """Of one set of keys."""
  (flash,), (one,) = flashes, inputs
  return flash(one)


def hindrance(inputs: Sequence[Inputs]) -> str | None:
  """Why these cannot be here; None = they can."""
  if len(inputs) > 1:
    return f'reads one set of keys on a GPU, but memory gives {len(inputs)}'
  (x,) = inputs
  widest = max(x.q.shape[-1], x.v.shape[-1])
  if widest > WIDEST:
    return (
      f'takes heads of at most {WIDEST} numbers on a GPU, but they have '
      f'{widest}'
    )
  if x.tables:
    return 'looks nothing up on a GPU, but model.pattern is by a plan of blocks'
  if [type(step) for step in x.steps] not in ([], [Cap]):
    return (
      'adds to logits and then caps them on a GPU, but model.heads has more: '
      'adaptive scores, or a span after a cap'
    )
  if jax.default_backend() == 'gpu':
    capability = jax.local_devices()[0].compute_capability
    if not re.match(r'([89]|\d\d)\.', capability):
      return (
        'needs an NVIDIA GPU of compute capability 8.0 or newer, but this one '
        f'has {capability}'
      )
  return None


def _laid_out(flash: Flash, x: Inputs) -> Operands:
  """Filled up to whole tiles and powers of two, heads before the length."""
  more_q, more_k = -x.q.shape[1] % flash.queries, -x.k.shape[1] % flash.keys
  rows = x.q.shape[1] + more_q + x.k.shape[1] + more_k

  def wide(x_H):
    width = max(LEAST, pl.next_power_of_2(x_H.shape[-1])) - x_H.shape[-1]
    return jnp.pad(x_H, (*((0, 0),) * (x_H.ndim - 1), (0, width)))

  def along(x_BLNH, more):
    width = (0, 0), (0, more), (0, 0), (0, 0)
    return jnp.moveaxis(wide(jnp.pad(x_BLNH, width)), 2, 1)

  def of_rows(x_P):
    after = rows - more_q - x_P.shape[0]
    width = (more_q, after), *((0, 0),) * (x_P.ndim - 1)
    return jnp.moveaxis(jnp.pad(x_P, width), 0, 1)

  def place(x_B5L, more):
    width = (0, 0), (0, 0), (0, more)
    return jnp.pad(x_B5L, width, constant_values=EMPTY)

  heads = jnp.arange(x.q.shape[2]) if x.heads is None else x.heads
  words = x.seeds
  if words is not None:
    words = jax.lax.bitcast_convert_type(words, jnp.int32).reshape(-1)
  return Operands(
    q=along(x.q, more_q),
    k=along(x.k, more_k),
    v=along(x.v, more_k),
    qr=None if x.qr is None else along(x.qr, more_q),
    r=None if x.r is None else wide(of_rows(x.r)),
    c=None if x.c is None else of_rows(x.c.astype(jnp.float32))[:, None],
    q_place=place(x.q_place, more_q),
    k_place=place(x.k_place, more_k),
    heads=heads.astype(jnp.int32),
    seeds=words,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(flash, x):
  return _forward(flash, x)[0]


def _attend_and_save(flash, x):
  y_BNTH, lse_BN1T = _forward(flash, x)
  return y_BNTH, (x, y_BNTH, lse_BN1T)


def _attend_backward(flash, saved, dy_BNTH):
  x, y_BNTH, lse_BN1T = saved
  wide = (a.astype(jnp.float32) for a in (dy_BNTH, y_BNTH))
  delta_BN1T = jnp.einsum('bnth,bnth->bnt', *wide)[:, :, None]
  up = Upstream(dy_BNTH, lse_BN1T, delta_BN1T)
  dq, dqr = backward.of_queries(flash, x, up)
  dk, dv = backward.of_keys(flash, x, up)
  dr, dc = backward.of_rows(flash, x, up)
  return (Operands(dq, dk, dv, dqr, dr, dc, *(None,) * 4),)


_attend.defvjp(_attend_and_save, _attend_backward)


def _forward(flash: Flash, x: Operands) -> tuple[Array, Array]:
  """y [B, N, T, H], and the log of each row's sum, float32 [B, N, 1, T]."""
  (batch, heads, length, _), width = x.q.shape, x.v.shape[-1]
  grid = length // flash.queries, heads, batch
  strip = x.r is not None
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
  tile, qr_TH = Tile(b, n, i, first[i]), None
  q_TH = tiles.of_queries(flash, x.q, tile)
  strip = Strip(memory, (b * heads + n) * blocks + i, flash.interpret)
  if x.r is not None:
    qr_TH = tiles.of_queries(flash, x.qr, tile)
    backward.start(flash, x, strip, tile, qr_TH)

  def step(j, carry):
    highest_T, total_T, acc_TH = carry
    tile = Tile(b, n, i, j)
    k_SH, v_SH = (tiles.of_keys(flash, a, tile, heads) for a in (x.k, x.v))
    s_TS = product(q_TH, k_SH, (1, 1))
    term_TS = tiles.relative(flash, x, strip, tile, qr_TH, (rows,))
    if term_TS is not None:
      s_TS += term_TS
    s_TS, _ = tiles.judged(flash, x, s_TS, tile)
    higher_T = jnp.maximum(highest_T, s_TS.max(axis=1))
    fade_T = jnp.exp(highest_T - higher_T)
    p_TS = jnp.exp(s_TS - higher_T[:, None])
    total_T = total_T * fade_T + p_TS.sum(axis=1)
    if flash.rate:
      p_TS *= tiles.keep(flash, x, tile)
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
  lse[b, n, 0, here] = jnp.where(blind_T, 0.0, highest_T + jnp.log(total_T))

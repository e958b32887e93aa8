"""Gradients of fused attention: one kernel for queries, one for keys.

Both make each tile again. The first stays with a block of queries and meets
their keys; the second stays with a block of keys and meets their queries.

Relative rows belong to neither: tiles along a diagonal share them, those of
neighbouring diagonals overlap, and all rows of a batch add to them. So the
first kernel keeps their sum in main memory, and each tile reads its T + S
rows, adds and writes them back. A TPU core runs its grid in order, so no sum
is lost; only heads, which share no row, may run on different cores. That needs
memory for one sum, where partial sums of blocks of queries would need as many
as there are blocks, and a third pass by diagonals would make all tiles again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lctx.kernels.flash_skew import unskewed
from lctx.kernels.flash_tiles import (
  Operands,
  Upstream,
  first_row,
  found,
  nearest,
  product,
  specs,
)
from lctx.positions.steps import Step
from lctx.types import Array


def of_queries(
  flash, x: Operands, up: Upstream
) -> tuple[Array, tuple[Step, ...]]:
  """Gradients of `q` and of the steps."""
  batch, heads, length, _ = x.q.shape
  walk = flash.walk(x)

  def where(n, b, i, step, *bounds):
    return b, n, i, nearest(*bounds, i, step)

  zeros = jax.tree.map(_zeros, _of_rows(x.steps))
  anywhere = jax.tree.map(lambda _: pl.BlockSpec(memory_space=pl.ANY), zeros)
  read = (*walk, x, up)
  in_specs = specs(flash, x, where)
  own = x.q, _of_queries(x.steps)
  given, made, summed = (len(jax.tree.leaves(x)) for x in (read, own, zeros))
  aliases = {given + n: made + n for n in range(summed)}
  (dq, dsteps), sums = pl.pallas_call(
    functools.partial(_of_queries_kernel, flash),
    name='lctx_flash_of_queries',
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(heads, batch, length // flash.queries, walk.steps),
      in_specs=[in_specs, _upstream_specs(flash, up, where), anywhere],
      out_specs=[(in_specs.q, _of_queries(in_specs.steps)), anywhere],
      scratch_shapes=_scratch_of_queries(flash, x),
    ),
    out_shape=[jax.tree.map(_like, own), jax.tree.map(_like, zeros)],
    input_output_aliases=aliases,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', *('arbitrary',) * 3)
    ),
    interpret=flash.interpret,
  )(*read, zeros)
  return dq, tuple(
    dstep.replace(r=None if s.r is None else s.r.astype(step.r.dtype), c=s.c)
    for step, dstep, s in zip(x.steps, dsteps, sums, strict=True)
  )


def _of_rows(steps: tuple[Step, ...]) -> tuple[Step, ...]:
  return tuple(step.replace(qr=None, by_query=None) for step in steps)


def _of_queries(steps: tuple[Step, ...]) -> tuple[Step, ...]:
  return tuple(step.replace(r=None, c=None) for step in steps)


def _scratch_of_queries(flash, x):
  """Of a block of queries: its gradients. Of a tile: its rows of the sums."""
  window = flash.queries + flash.keys

  def wide(array, length):
    if array is None:
      return None
    return pltpu.VMEM((length, array.shape[-1]), jnp.float32)

  def flat(array, length):
    return None if array is None else pltpu.VMEM((1, length), jnp.float32)

  def of_step(step):
    return step.replace(
      qr=wide(step.qr, flash.queries),
      r=wide(step.r, window),
      c=flat(step.c, window),
      by_query=flat(step.by_query, flash.queries),
    )

  steps = tuple(map(of_step, x.steps))
  return [
    (wide(x.q, flash.queries), _of_queries(steps)),
    _of_rows(steps),
    pltpu.SemaphoreType.DMA((max(1, len(jax.tree.leaves(_of_rows(steps)))),)),
  ]


def _of_queries_kernel(flash, first, end, *refs):
  x, up, _, own, sums, own_sums, held, arrived = refs
  n, b, i, step = (pl.program_id(axis) for axis in range(4))
  blocks, row = pl.num_programs(2), b * pl.num_programs(0) + n

  @pl.when(step == 0)
  def _():
    for total in jax.tree.leaves(own_sums):
      total[...] = jnp.zeros_like(total)

  @pl.when(first[i] + step < end[i])
  def _():
    start = first_row(flash, blocks, i, first[i] + step)
    window = pl.ds(start, flash.queries + flash.keys)
    copies = _copies(sums, held, arrived, n, window)
    for fetch, _ in copies:
      fetch.start()
    made, (dq_sum, dsteps) = found(flash, x, up, n, row), own_sums
    dq_sum[...] += product(made.ds.astype(x.k.dtype), x.k[...], (1, 0))
    dterms_TP = jax.tree.map(unskewed, made.dterms)
    for fetch, _ in copies:
      fetch.wait()
    for given in zip(x.steps, dsteps, held, made.dterms, dterms_TP):
      _add(*given)
    for _, put in copies:
      put.start()
    for _, put in copies:
      put.wait()

  @pl.when(step == pl.num_programs(3) - 1)
  def _():
    for out, total in zip(*map(jax.tree.leaves, (own, own_sums)), strict=True):
      out[...] = total[...].astype(out.dtype)


def _add(step, own, held, dterm_TS, dterm_TP):
  """What one tile gives to the gradients of one step."""
  if step.r is not None:
    short_TP = dterm_TP.astype(step.qr.dtype)
    own.qr[...] += product(short_TP, step.r[...], (1, 0))
    held.r[...] += product(short_TP, step.qr[...], (0, 0))
  if step.c is not None:
    held.c[...] += dterm_TP.sum(axis=0, keepdims=True)
  if step.by_query is not None:
    own.by_query[...] += dterm_TS.sum(axis=1, keepdims=True).T


def _copies(sums, held, arrived, n, window):
  """What fetches the rows of a tile from each sum, and what puts them back."""
  pairs = []
  for whole, part in zip(sums, held, strict=True):
    if whole.r is not None:
      pairs.append((whole.r.at[n, window, :], part.r))
    if whole.c is not None:
      pairs.append((whole.c.at[n, :, window], part.c))
  return [
    (
      pltpu.make_async_copy(whole, part, arrived.at[m]),
      pltpu.make_async_copy(part, whole, arrived.at[m]),
    )
    for m, (whole, part) in enumerate(pairs)
  ]


def of_keys(flash, x: Operands, up: Upstream) -> tuple[Array, Array]:
  """Gradients of `k` and `v`, summed over the heads that share them."""
  (batch, heads, _, _), (_, key_heads, length, _) = x.q.shape, x.k.shape
  blocks, group = length // flash.keys, heads // key_heads
  walk = flash.walk(x).turned(blocks)

  def where(b, k, j, g, step, *bounds):
    return b, k * group + g, nearest(*bounds, j, step), j

  in_specs = specs(flash, x, where)
  return pl.pallas_call(
    functools.partial(_of_keys_kernel, flash),
    name='lctx_flash_of_keys',
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(batch, key_heads, blocks, group, walk.steps),
      in_specs=[in_specs, _upstream_specs(flash, up, where)],
      out_specs=[in_specs.k, in_specs.v],
      scratch_shapes=[
        pltpu.VMEM((flash.keys, a.shape[-1]), jnp.float32) for a in (x.k, x.v)
      ],
    ),
    out_shape=[_like(x.k), _like(x.v)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=(*('parallel',) * 3, 'arbitrary', 'arbitrary')
    ),
    interpret=flash.interpret,
  )(*walk, x, up)


def _of_keys_kernel(flash, first, end, *refs):
  x, up, dk, dv, dk_sum, dv_sum = refs
  b, k, j, g, step = (pl.program_id(axis) for axis in range(5))
  group, last = pl.num_programs(3), pl.num_programs(4) - 1
  head = k * group + g
  row = b * pl.num_programs(1) * group + head

  @pl.when((g == 0) & (step == 0))
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  @pl.when(first[j] + step < end[j])
  def _():
    kept_TS, ds_TS, _ = found(flash, x, up, head, row)
    dk_sum[...] += product(ds_TS.astype(x.q.dtype), x.q[...], (0, 0))
    dv_sum[...] += product(kept_TS.astype(up.dy.dtype), up.dy[...], (0, 0))

  @pl.when((g == group - 1) & (step == last))
  def _():
    dk[...] = dk_sum[...].astype(dk.dtype)
    dv[...] = dv_sum[...].astype(dv.dtype)


def _upstream_specs(flash, up: Upstream, where) -> Upstream:
  def block(shape, index):
    return pl.BlockSpec(shape, lambda *point: index(*where(*point)))

  row = block((None, None, 1, flash.queries), lambda b, n, i, j: (b, n, 0, i))
  shape = None, None, flash.queries, up.dy.shape[-1]
  return Upstream(block(shape, lambda b, n, i, j: (b, n, i, 0)), row, row)


def _zeros(array):
  return jnp.zeros(array.shape, jnp.float32)


def _like(array):
  return jax.ShapeDtypeStruct(array.shape, array.dtype)

"""Transformer-XL's relative positions, sinusoidal and learned.

Dai et al. 2019, section 3.3. With d the distance from key back to query:

  logit = scale * [(q + u).k + (q + v).r(d) + c(d)]

`RelativeXL` (the paper, `attn_type` 0): r = r_net(sinusoid(d)), no c.
`LearnedRelative` (Shaw et al. 2018, `attn_type` 1): r and c are tables, no v.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from lctx.positions.base import Position, Score
from lctx.products import met_by_all
from lctx.types import Array, distance


@dataclasses.dataclass(frozen=True)
class RelativeXL(Position):
  """Sinusoids of the distance, projected by each layer.

  `clamp`: distances beyond it count as it (`clamp_len`); None = no limit.
  `per_layer`: each layer has its own biases u and v (`untie_r`); the
  published PyTorch models share one pair.
  """

  clamp: int | None = None
  per_layer: bool = False

  def __post_init__(self):
    check_clamp(self)

  def check_width(self, width):
    if width % 2:
      raise ValueError(
        f'model.embed.width = {width} must be even for model.position = '
        'relativexl: half of it are sines, half cosines. Change the width, or '
        'use model.position=learnedrelative.'
      )

  def once(self, param, sizes, drop):
    rows = sizes.distances
    if self.clamp is not None:
      rows = min(rows, self.clamp + 1)
    sinusoid_PD = sinusoid(jnp.arange(rows), sizes.width)
    sinusoid_PD = drop(sinusoid_PD.astype(sizes.dtype))
    return None if self.per_layer else biases(param, sizes), sinusoid_PD

  def score(self, param, shared, sizes):
    shared_biases, sinusoid_PD = shared
    u_NH, v_NH = shared_biases or biases(param, sizes)
    shape = (sizes.width, sizes.num_heads, sizes.head_width)
    kernel_DNH = param('relative', shape, ('width', 'heads', 'head_width'))
    kernel_DNH = kernel_DNH.astype(sinusoid_PD.dtype)
    r_PNH = jnp.einsum('pd,dnh->pnh', sinusoid_PD, kernel_DNH)
    return Relative(r_PNH, u_NH, v_NH, None, sizes.head_width**-0.5)


@dataclasses.dataclass(frozen=True)
class LearnedRelative(Position):
  """A table of `length` distances per layer; farther ones use its last row.

  `clamp` keeps the rows of distances 0 to clamp - 1, as published.
  """

  length: int
  clamp: int | None = None

  def __post_init__(self):
    check_clamp(self)
    if self.length < 1:
      raise ValueError(
        f'model.position.length = {self.length} is the number of distances '
        'in the table and must be at least 1. Use segment + memory.'
      )
    if self.clamp is not None and self.clamp > self.length:
      raise ValueError(
        f'model.position.clamp = {self.clamp} has no effect: the table ends at '
        f'model.position.length = {self.length} distances. Use none, or fewer.'
      )

  def score(self, param, shared, sizes):
    heads = (sizes.num_heads, sizes.head_width)
    axes = ('distances', 'heads', 'head_width')
    r_PNH = param('relative', (self.length, *heads), axes)
    c_PN = param('relative_bias', (self.length, heads[0]), axes[:2])
    u_NH = param('content_bias', heads, axes[1:])
    r_PNH, c_PN = r_PNH[: self.clamp], c_PN[: self.clamp]
    return Relative(r_PNH, u_NH, None, c_PN, sizes.head_width**-0.5)


@struct.dataclass
class Relative(Score):
  """Adds what the distance says. Row p of `r_PNH` is distance p.

  Distances past the last row use the last row.
  """

  r_PNH: Array
  u_NH: Array
  v_NH: Array | None
  c_PN: Array | None
  scale: float = struct.field(pytree_node=False)

  def rotate(self, q_BTNH, k_BSNH, q_at, k_at):
    return q_BTNH + self._scaled(self.u_NH, q_BTNH), k_BSNH

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    if self.v_NH is not None:
      q_BTNH = q_BTNH + self._scaled(self.v_NH, q_BTNH)
    if q_at.start is None or k_at.start is None:
      by_distance_NBTP = self._by_distance(q_BTNH, self.r_PNH, self.c_PN)
      return s_NBTS + gathered(by_distance_NBTP, distance(q_at, k_at))
    reach = q_at.start - k_at.start + q_at.length  # distances that occur
    r_PNH = falling(self.r_PNH, reach, k_at.length)
    c_PN = None if self.c_PN is None else falling(self.c_PN, reach, k_at.length)
    by_distance_NBTP = self._by_distance(q_BTNH, r_PNH, c_PN)
    clamped = max(0, reach - self.r_PNH.shape[0])  # use the farthest there is
    if clamped:
      shape = (*by_distance_NBTP.shape[:-1], clamped)
      far_NBTP = jnp.broadcast_to(by_distance_NBTP[..., :1], shape)
      by_distance_NBTP = jnp.concatenate([far_NBTP, by_distance_NBTP], axis=-1)
    return s_NBTS + shifted(by_distance_NBTP, k_at.length)

  def along(self, q_at, k_at):
    if q_at.start is None or k_at.start is None:
      return self
    reach = q_at.start - k_at.start + q_at.length
    rows, longest = q_at.length + k_at.length, self.r_PNH.shape[0]

    def laid(x_P):
      far = (max(0, reach - longest), *x_P.shape[1:])
      far_P = jnp.broadcast_to(x_P[-1:], far)
      return jnp.concatenate([far_P, falling(x_P, reach, rows - 1)])[:rows]

    r_PNH, c_PN = jax.tree.map(laid, (self.r_PNH, self.c_PN))
    return RelativeRows(r_PNH, self.v_NH, c_PN, self.scale)

  def _by_distance(self, q_BTNH, r_PNH, c_PN):
    return by_distance(q_BTNH, r_PNH, c_PN, self.scale)

  def _scaled(self, bias_NH, q_BTNH):
    return scaled(bias_NH, self.scale, q_BTNH)


@struct.dataclass
class RelativeRows(Score):
  """`Relative` along one source: from row to row a step less, after the first.

  So a tile needs rows that lie together, one more than its sides are long.
  """

  r_PNH: Array
  v_NH: Array | None
  c_PN: Array | None
  scale: float = struct.field(pytree_node=False)

  def block(self, s_NBTS, q_BTNH, q_at, k_at):
    if self.v_NH is not None:
      q_BTNH = q_BTNH + scaled(self.v_NH, self.scale, q_BTNH)
    x_NBTP = by_distance(q_BTNH, self.r_PNH, self.c_PN, self.scale)
    return s_NBTS + shifted(x_NBTP, k_at.length)

  def cut(self, tile):
    start, count = _rows(tile)

    def cut(x_P):
      return jax.lax.dynamic_slice_in_dim(x_P, start, count)

    r_PNH, c_PN = jax.tree.map(cut, (self.r_PNH, self.c_PN))
    return self.replace(r_PNH=r_PNH, c_PN=c_PN)

  def put(self, total, part, tile):
    start, count = _rows(tile)

    def add(total_P, part_P):
      part_P += jax.lax.dynamic_slice_in_dim(total_P, start, count)
      return jax.lax.dynamic_update_slice_in_dim(total_P, part_P, start, 0)

    r_PNH, c_PN = jax.tree.map(
      add, (total.r_PNH, total.c_PN), (part.r_PNH, part.c_PN)
    )
    v_NH = jax.tree.map(jnp.add, total.v_NH, part.v_NH)
    return total.replace(r_PNH=r_PNH, v_NH=v_NH, c_PN=c_PN)


def _rows(tile):
  """The first row that a tile needs, and how many."""
  start = tile.length - tile.queries - tile.query + tile.key
  return start, tile.queries + tile.keys


def by_distance(q_BTNH, r_PNH, c_PN, scale) -> Array:
  """What each query thinks of each row: float32 [N, B, T, P]."""
  x_NBTP = met_by_all(q_BTNH, r_PNH.astype(q_BTNH.dtype))
  if c_PN is None:
    return x_NBTP
  return x_NBTP + (c_PN * scale).T[:, None, None, :]


def scaled(bias_NH, scale, q_BTNH) -> Array:
  """A bias as it is added to queries, which are scaled already."""
  return (bias_NH * scale).astype(q_BTNH.dtype)[None, None]


def gathered(x_NBTP: Array, steps_BTS: Array) -> Array:
  """x[..., i, steps(i, j)], clipped to the table: any coordinates."""
  clipped_BTS = jnp.clip(steps_BTS, 0, x_NBTP.shape[-1] - 1)
  return jnp.take_along_axis(x_NBTP, clipped_BTS[None], axis=-1)


def falling(x_P: Array, reach: int, keys: int) -> Array:
  """Rows of distances down from reach - 1 to 0, then rows for what lies ahead.

  With those of clamped distances in front there are as many as `shifted`
  reads: one more than keys or distances.
  """
  ahead = jnp.zeros((max(keys - reach, 0) + 1, *x_P.shape[1:]), x_P.dtype)
  return jnp.concatenate([jnp.flip(x_P[:reach], axis=0), ahead])


def shifted(x_NBTP: Array, keys: int) -> Array:
  """out[..., i, j] = x at the distance from key j back to query i.

  Dai et al. 2019, appendix B. The columns of x are `falling`: one more than
  are read, so cutting the flat rows one shorter moves each by one more than
  the row before. What lies ahead of a query is garbage for the mask to hide.
  """
  heads, batch, queries, columns = x_NBTP.shape
  width = columns - 1
  flat = x_NBTP.reshape(heads, batch, queries * columns)
  flat = flat[..., queries - 1 : queries - 1 + queries * width]
  return flat.reshape(heads, batch, queries, width)[..., :keys]


def sinusoid(position_P: Array, width: int) -> Array:
  """[P, width]: sines, then cosines, of position * 10000^(-2j / width)."""
  j = jnp.arange(0, width, 2, dtype=jnp.float32)
  angle = position_P[:, None].astype(jnp.float32) / 10_000 ** (j / width)[None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def biases(param, sizes) -> tuple[Array, Array]:
  """u, which asks for content, and v, which asks for distance."""
  shape, axes = (sizes.num_heads, sizes.head_width), ('heads', 'head_width')
  return param('content_bias', shape, axes), param('distance_bias', shape, axes)


def check_clamp(position) -> None:
  if position.clamp is not None and position.clamp < 1:
    raise ValueError(
      f'model.position.clamp = {position.clamp} is a distance and must be at '
      'least 1. Use none for no limit.'
    )

"""Transient global tokens: each block of a segment, summed up, is a key too.

Guo et al. 2022 (LongT5), section 3.1.2. They are made anew for each segment
and nothing of them is carried.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lctx.layers.norm import RMSNorm
from lctx.memory.base import Memory, check_no_adaptive
from lctx.patterns.base import Everything, drawn, visible
from lctx.patterns.causal import Causal
from lctx.positions.base import Position, Sizes
from lctx.positions.t5 import T5Bias
from lctx.types import EMPTY, Array, Coords, run_lengths


@dataclasses.dataclass(frozen=True)
class TransientGlobal(Memory):
  """One key and value for every `block` tokens of a document.

  A block is the sum of its tokens' states as they meet the projections, normed
  and projected like them. Tokens left over at a document's end join its last
  block; a document shorter than a block has none. Every query sees all blocks
  of its document, whatever the pattern says of tokens; `position` counts in
  blocks.

  `causal`: a query sees blocks that end before it or with it, and distances
  count from the last of them; nothing joins a block that has ended. `position`
  None is `T5Bias`, both ways unless causal.
  """

  in_order: ClassVar[bool] = False

  block: int = 16
  causal: bool = False
  position: Position | None = None

  def __post_init__(self):
    if self.block < 1:
      raise ValueError(
        f'model.memory.block = {self.block} counts tokens that are summed up '
        'in one key and must be at least 1. Published: 16.'
      )
    scheme = self.scheme
    if type(scheme).embed is not Position.embed:
      raise ValueError(
        'model.memory.position counts blocks, to which absolute schemes add '
        'nothing. Use a relative one, such as t5bias.'
      )
    if scheme.declared(1) != scheme.declared(2):
      raise ValueError(
        'model.memory.position counts blocks, so no length of a text can be '
        'declared for it. Use a stretch that does not go by the length.'
      )

  @property
  def scheme(self) -> Position:
    """The position of blocks."""
    return self.position or T5Bias(both_ways=not self.causal)

  def check(self, sizes, pattern, heads):
    why = 'adds keys that stand for many and have none'
    check_no_adaptive(self, heads, why)
    if pattern.reach.after == 0 and not self.causal:
      raise ValueError(
        f'model.pattern = {pattern} never looks ahead, but model.memory = '
        'transientglobal lets every query see blocks that do. Set '
        'model.memory.causal=true, or use a pattern that sees both ways.'
      )
    try:
      self.scheme.check(self._in_blocks(sizes, 2))
    except ValueError as error:
      text = str(error).replace('model.position', 'model.memory.position')
      cause = 'model.memory.causal = false'
      raise ValueError(text.replace('model.pattern', cause)) from error

  def check_segment(self, segment, field):
    if segment < self.block:
      raise ValueError(
        f'model.memory.block = {self.block} is longer than {field} = '
        f'{segment}, so no block is ever full. Use a shorter block.'
      )

  def flops(self, sizes, segment):
    made = segment // self.block
    seen = float(made)
    if self.causal:
      seen = float(((1 + np.arange(segment)) // self.block).mean())
    keys = 2 * sizes.width * sizes.key_heads * sizes.head_width
    met = 2 * sizes.num_heads * sizes.head_width * seen
    return 2 * keys * made / segment + 2 * met

  def once(self, param, sizes, drop):
    count = max(sizes.distances // self.block, 1)
    return self.scheme.once(param, self._in_blocks(sizes, count), drop)

  def sources(self, param, carry, near, layer):
    k_at, sizes = layer.near.k_at, layer.sizes  # of the segment alone
    count, blocks = k_at.length // self.block, self._blocks(k_at.document)
    states = layer.norm(layer.x).astype(jnp.float32)
    normed_BGD = RMSNorm()(param, _sums(states, blocks.of_token, count))
    k_BGKH, v_BGKH = layer.project(normed_BGD.astype(layer.x.dtype))
    position = self.scheme.score(
      param, layer.shared, self._in_blocks(sizes, max(count, 1))
    )
    if not count:
      return (near,)
    slots_BT = near.q_at.index - k_at.index[:, :1]
    counted_BT = jnp.take_along_axis(blocks.counted, slots_BT, axis=1)
    ends_BG = k_at.index[:, :1] + blocks.end
    far = near.replace(
      k=k_BGKH,
      v=v_BGKH,
      q_at=_at(near.q_at.index, counted_BT, near.q_at.document),
      k_at=_at(ends_BG, _numbers(blocks), blocks.document),
      heads=near.heads_N + sizes.num_heads,  # dropout's masks are its own
      scores=(position, *near.placeless),
      pattern=self.patterns(near.pattern)[1],
    )
    return near, far

  def picture(self, length: int) -> list[str]:
    """Which blocks each query of a document sees: a line a query, `#` a block.

    As `lctx.patterns.picture` draws tokens.
    """
    document_1T = jnp.zeros((1, length), jnp.int32)
    blocks = self._blocks(document_1T)
    index_1T = jnp.arange(length, dtype=jnp.int32)[None]
    q_at = _at(index_1T, blocks.counted, document_1T)
    k_at = _at(blocks.end, _numbers(blocks), blocks.document)
    _, pattern = self.patterns(Everything())
    return drawn(visible(pattern, q_at, k_at, jnp.arange(1))[0, 0])

  def patterns(self, pattern):
    return pattern, Causal() if self.causal else Everything()

  def _blocks(self, document_BT):
    count = document_BT.shape[1] // self.block
    return blocks_of(document_BT, self.block, count, causal=self.causal)

  def _in_blocks(self, sizes: Sizes, count: int) -> Sizes:
    """The sizes of a layer whose steps are blocks."""
    ahead = 0 if self.causal else count - 1
    return dataclasses.replace(sizes, distances=count, ahead=ahead)


class Blocks(NamedTuple):
  """The blocks of a segment, numbered along each row; int32.

  Only full blocks count, so a row has one for every `block` tokens at most.
  """

  of_token: Array  # [B, T]: which one sums up a token; -1 = none
  counted: Array  # [B, T]: where a token's distances count from; -1 = none
  document: Array  # [B, G]: EMPTY where a row has fewer
  end: Array  # [B, G]: the step of its last token


def blocks_of(
  document_BT: Array, block: int, count: int, *, causal: bool
) -> Blocks:
  """The blocks of each document; they begin where it does, or the segment."""
  length = document_BT.shape[1]
  step_1T = jnp.arange(length, dtype=jnp.int32)[None]
  within_BT = run_lengths(document_BT) % block
  held_BT = document_BT >= 0
  ends_BT = (within_BT == block - 1) & held_BT
  ended_BT = jnp.cumsum(ends_BT, axis=1, dtype=jnp.int32)
  last_BG, document_BG = (
    jnp.maximum(
      _by_number(jax.ops.segment_max)(
        jnp.where(ends_BT, x_BT, EMPTY), ended_BT - ends_BT, count
      ),
      EMPTY,
    )
    for x_BT in (step_1T, document_BT)
  )
  last_BT = step_1T + block - 1 - within_BT
  same_BT = document_BT == jnp.take_along_axis(
    document_BT, jnp.minimum(last_BT, length - 1), axis=1
  )
  full_BT = held_BT & same_BT & (last_BT < length)
  number_BT = ended_BT - ends_BT  # of the next block to end
  if causal:
    return Blocks(
      jnp.where(full_BT, number_BT, -1), ended_BT - 1, document_BG, last_BG
    )
  has_one_BT = run_lengths(document_BT) >= block
  left_over_BT = jnp.where(has_one_BT & held_BT, ended_BT - 1, -1)
  of_token_BT = jnp.where(full_BT, number_BT, left_over_BT)
  return Blocks(of_token_BT, of_token_BT, document_BG, last_BG)


def _sums(x_BTD: Array, of_token_BT: Array, count: int) -> Array:
  """[B, G, D]"""
  return _by_number(jax.ops.segment_sum)(x_BTD, of_token_BT, count)


def _by_number(reduce):
  """`reduce` over the tokens of each number below `count`, row by row."""

  def rows(x_BT, number_BT, count):
    number_BT = jnp.where(number_BT < 0, count, number_BT)
    return jax.vmap(lambda x, n: reduce(x, n, num_segments=count))(
      x_BT, number_BT
    )

  return rows


def _numbers(blocks: Blocks) -> Array:
  """[B, G]: 0, 1, ..."""
  number_1G = jnp.arange(blocks.end.shape[1], dtype=jnp.int32)[None]
  return jnp.zeros_like(blocks.end) + number_1G


def _at(index_BL: Array, number_BL: Array, document_BL: Array) -> Coords:
  """Masks go by tokens, distances by blocks."""
  zeros = jnp.zeros_like(index_BL)
  return Coords(
    index=index_BL,
    position=number_BL,
    offset=zeros,
    document=document_BL,
    segment=zeros,
    role=zeros,
  )

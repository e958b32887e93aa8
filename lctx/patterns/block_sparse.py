"""BigBird's pattern: blocks that see near, global and random blocks."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from lctx.patterns.base import Everything, Pattern, Times
from lctx.patterns.tables import LookUp
from lctx.types import of_keys, of_queries


@dataclasses.dataclass(frozen=True)
class BlockSparse(Pattern):
  """Near, global and random blocks of keys (Zaheer et al. 2020, section 2).

  A document is cut into blocks of `block` tokens, `blocks` at most. A block of
  queries sees itself, `near` blocks on each side, `random` others that `seed`
  draws once for each head, and the first and last `edge` blocks, which see
  all. Published: 64 tokens, 1 near, 3 random, edges of 1. The last block is
  number `blocks` - 1, so shorter documents have none at the end, and all that
  a longer one has behind it belongs to it.

  `blocks` None: as many as a segment has, of which `whole` tokens or fewer are
  all seen (the published code). `seed` None: none are drawn; in the place of
  each random block stands the first one, which the middle counts 1 + `random`
  times. So Hugging Face's library reads when it does not train.
  """

  blocks: int | None = None
  block: int = 64
  near: int = 1
  random: int = 3
  edge: int = 1
  heads: int = 1
  seed: int | None = 0

  def __post_init__(self):
    counts = (self.near, self.random, self.edge)
    least = self.block, self.heads, self.blocks or 1
    if min(least) < 1 or min(counts) < 0 or self.blocks == 0:
      raise ValueError(
        f'{self} counts: blocks, block and heads must be at least 1, near, '
        'random and edge at least 0.'
      )
    if self.seed is None and (self.heads > 1 or not self.edge):
      raise ValueError(
        f'{self} draws no blocks for any head: the first block, which all must '
        'see, stands for them. Use heads = 1 and edge = 1 or more, or a seed.'
      )
    if self.blocks is None:
      return
    others = self.blocks - 2 * self.edge - 2 * self.near - 1
    if self.random > max(others, 0):
      raise ValueError(
        f'{self} has {max(others, 0)} blocks for the middle to draw from, '
        f'fewer than random = {self.random}. Use fewer, or more blocks.'
      )

  @property
  def whole(self) -> int:
    """Tokens of the longest segment that is not worth cutting into blocks."""
    near = 2 * self.near + 1
    return (2 * self.edge + near + 2 * self.random) * self.block

  def of_length(self, length):
    if self.blocks is not None:
      return self
    if length <= self.whole:
      return Everything()
    return dataclasses.replace(self, blocks=-(-length // self.block))

  @property
  def counts(self):
    return self.seed is None and self.random > 0

  def times(self, q_at, k_at):
    if not self.counts:
      return ()
    row_BT, column_BS = (self.number(at.offset) for at in (q_at, k_at))
    last = self._count() - self.edge
    is_middle_BT = (row_BT >= self.edge) & (row_BT < last)
    more = math.log1p(self.random)
    return (
      Times(
        is_middle_BT.astype(jnp.float32), jnp.where(column_BS == 0, more, 0.0)
      ),
    )

  def allowed(self, q_at, k_at, heads_N):
    plan_NXX = jnp.asarray(self.plan())
    head_N111 = self._numbers(heads_N)[:, None, None, None]
    planned = self.given(lambda row, column: plan_NXX[head_N111, row, column])
    return planned.allowed(q_at, k_at, heads_N)

  def tables(self, heads_N):
    plan_NXX = jnp.asarray(self.plan(), jnp.float32)
    return plan_NXX[self._numbers(heads_N)]

  def given(self, look_ups):
    return _Planned(self, look_ups)

  def _numbers(self, heads_N):
    """Of the plan of each head; one where all share it."""
    number_N = jnp.asarray(heads_N) % self.heads
    return number_N[:1] if self.heads == 1 else number_N

  def number(self, offset):
    """Of the block of a token."""
    return jnp.minimum(offset // self.block, self._count() - 1)

  def _count(self) -> int:
    if self.blocks is None:
      raise TypeError('how many blocks a segment has, only of_length knows')
    return self.blocks

  def plan(self) -> np.ndarray:
    """Which block sees which: bool [heads, blocks, blocks]."""
    number = np.arange(self._count())
    edges = (number < self.edge) | (number >= self.blocks - self.edge)
    near = abs(number[:, None] - number[None]) <= self.near
    seen = near | edges[:, None] | edges[None]
    plan = np.broadcast_to(seen, (self.heads, *seen.shape)).copy()
    if self.seed is None:
      return plan
    draw = np.random.default_rng(self.seed)
    for head, block in np.ndindex(self.heads, self.blocks):
      others = np.flatnonzero(~seen[block])
      chosen = draw.permutation(others)[: self.random]
      plan[head, block, chosen] = True
    return plan

  def check_heads(self, num_heads):
    if self.heads not in (1, num_heads):
      raise ValueError(
        f'model.pattern.heads = {self.heads} draws blocks for as many heads, '
        f'but model.stack.num_heads = {num_heads}. Use 1, which gives all '
        f'heads the same blocks, or {num_heads}.'
      )


@dataclasses.dataclass(frozen=True)
class _Planned(Pattern):
  pattern: BlockSparse
  plan: LookUp

  def allowed(self, q_at, k_at, heads_N):
    query_1BT1, key_1B1S = (
      self.pattern.number(offset)
      for offset in (of_queries(q_at.offset), of_keys(k_at.offset))
    )
    return self.plan(query_1BT1, key_1B1S) > 0

"""BigBird's pattern: blocks that see near, global and random blocks."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from lctx.patterns.base import Pattern
from lctx.patterns.tables import LookUp
from lctx.types import of_keys, of_queries


@dataclasses.dataclass(frozen=True)
class BlockSparse(Pattern):
  """Near, global and random blocks of keys (Zaheer et al. 2020, section 2).

  A document is cut into blocks of `block` tokens, `blocks` at most. A block of
  queries sees itself, `near` blocks on each side, `random` others that `seed`
  draws once for each head, and the first and last `edge` blocks, which see
  all. Published: 64 tokens, 1 near, 3 random, edges of 1. The last block is
  number `blocks` - 1, so shorter documents have none at the end.
  """

  blocks: int
  block: int = 64
  near: int = 1
  random: int = 3
  edge: int = 1
  heads: int = 1
  seed: int = 0

  def __post_init__(self):
    counts = (self.near, self.random, self.edge)
    if min(self.blocks, self.block, self.heads) < 1 or min(counts) < 0:
      raise ValueError(
        f'{self} counts: blocks, block and heads must be at least 1, near, '
        'random and edge at least 0.'
      )
    others = self.blocks - 2 * self.edge - 2 * self.near - 1
    if self.random > max(others, 0):
      raise ValueError(
        f'{self} has {max(others, 0)} blocks for the middle to draw from, '
        f'fewer than random = {self.random}. Use fewer, or more blocks.'
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

  def plan(self) -> np.ndarray:
    """Which block sees which: bool [heads, blocks, blocks]."""
    number = np.arange(self.blocks)
    edges = (number < self.edge) | (number >= self.blocks - self.edge)
    near = abs(number[:, None] - number[None]) <= self.near
    seen = near | edges[:, None] | edges[None]
    plan = np.broadcast_to(seen, (self.heads, *seen.shape)).copy()
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
      jnp.minimum(offset // self.pattern.block, self.pattern.blocks - 1)
      for offset in (of_queries(q_at.offset), of_keys(k_at.offset))
    )
    return self.plan(query_1BT1, key_1B1S) > 0

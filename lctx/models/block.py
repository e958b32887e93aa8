"""One layer: attention and feed-forward on a residual stream."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from lctx.kernels.base import Kernel
from lctx.layers.ffn import Feed
from lctx.layers.parameters import Owner, declare, within
from lctx.memory.base import Memory
from lctx.memory.held import where
from lctx.models.attention import Attention, OfMemory
from lctx.models.carry import LayerCarry
from lctx.models.cross import Context, CrossAttention
from lctx.models.heads import Heads
from lctx.models.parts import Dropout, Stack
from lctx.patterns.base import Pattern
from lctx.positions.base import Position, Score, Sizes
from lctx.types import Array, Coords


class Shared(NamedTuple):
  """What the layers of a stack share.

  As `once` of their position and memory gave it, and what cross-attention
  looks at.
  """

  position: Any
  memory: Any
  context: Context | None = None


class Block(nn.Module):
  """Post-norm: x = norm(x + part(x)). Pre-norm: x = x + part(norm(x)).

  The part is attention, then the feed-forward one; a gate may replace the sum.
  """

  stack: Stack
  position: Position
  heads: Heads
  pattern: Pattern
  memory: Memory
  dropout: Dropout
  kernel: Kernel
  around: tuple[int, int] = (0, 0)
  cross: bool = False

  @nn.compact
  def __call__(
    self,
    x,
    carry: LayerCarry,
    scores: tuple[Score, ...] | None,
    shared: Shared,
    at: Coords,
    sizes: Sizes,
    closing_B: Array | None = None,
  ):
    """x, then the new carry and the auxiliary loss, as a scan has it.

    Without an open segment in `carry` the tokens are a whole one. Else they
    join it, and it closes in the rows of `closing_B`.
    """
    param = declare(self)
    if not self.memory.attends:
      scores = ()
    elif scores is None:
      position = self.position, self.heads
      scores = layer_scores(param, shared.position, *position, sizes)
    owned = within(param, 'memory')
    x = self.memory.enter(owned, carry.memory, x, at)
    stack, hidden = self.stack, self.dropout.hidden
    norm_0, norm_1 = (Owner(stack.norm, name=f'norm_{i}') for i in range(2))
    gate_0, gate_1 = (Owner(stack.gate, name=f'gate_{i}') for i in range(2))
    attend = Attention(
      sizes,
      self.heads,
      self.pattern,
      self.memory,
      self.dropout.attention,
      self.kernel,
      self.around,
      name='attention',
    )
    feed = Feed(stack.ffn, stack.ffn_width_of(x.shape[-1]), hidden, name='ffn')
    drop = nn.Dropout(hidden, deterministic=not self.has_rng('dropout'))
    before = norm_0 if stack.pre_norm else _same
    of_memory = OfMemory(owned, shared.memory)
    y, segment, memory, layer = attend(x, at, carry, scores, before, of_memory)
    if stack.pre_norm:
      after_0, after_1 = self._after()
      read, x = x, gate_0(x, drop(after_0(y)))
      if self.cross:
        gate, norm = self._beside()
        y = self._crossed(norm(x), at, carry, shared, sizes)
        x = gate(x, drop(y))
      x = gate_1(x, after_1(feed(norm_1(read if stack.parallel else x))))
    else:
      x = norm_0(gate_0(x, drop(y)))
      if self.cross:
        gate, norm = self._beside()
        x = norm(gate(x, drop(self._crossed(x, at, carry, shared, sizes))))
      x = norm_1(gate_1(x, feed(x)))
    penalty = jnp.zeros((), jnp.float32)
    if self.memory.attends:
      penalty = self.heads.penalty(scores)
    opened = None
    if carry.open is not None:
      opened = segment = segment.give(x, at)
      if closing_B is None:
        return x, (carry.replace(memory=memory, open=opened), penalty)
    segment = segment if opened is not None else segment.replace(y=x)
    x = self._left(owned, x, segment)
    written, cost = self.memory.write(owned, memory, segment, layer)
    if opened is not None:
      written = where(closing_B, written, memory)
      opened = opened.emptied(closing_B)
    return x, (carry.replace(memory=written, open=opened), penalty + cost)

  def _beside(self):
    """How cross-attention joins the stream."""
    stack = self.stack
    gate, norm = (
      Owner(stack.gate, name='gate_2'),
      Owner(stack.norm, name='norm_2'),
    )
    return gate, norm

  def _crossed(self, x, at, carry, shared, sizes):
    attend = CrossAttention(
      sizes, self.heads, self.dropout.attention, self.kernel, name='cross'
    )
    return attend(x, at, shared.context, carry.cross)

  def _after(self):
    if not self.stack.norm_after:
      return _same, _same
    return (Owner(self.stack.norm, name=f'after_{i}') for i in range(2))

  def _left(self, owned, x, segment):
    if not self.around[1]:
      return x
    text = x[:, : x.shape[1] - self.around[1]]
    return jnp.concatenate([text, self.memory.leave(owned, segment)], axis=1)


class InTurn(nn.Module):
  """Several layers, one after the other, as if they were one.

  `parts`: the fields of each block; carries, scores and what is shared are
  tuples, of one for each.
  """

  block: type[Block]
  parts: tuple[tuple, ...]

  @nn.compact
  def __call__(self, x, carries, scores, shared, *given):
    """As a block has it."""
    new, total = [], 0.0
    for i, parts in enumerate(self.parts):
      block = self.block(*parts, name=f'turn_{i}')
      x, (carry, cost) = block(x, carries[i], scores[i], shared[i], *given)
      new.append(carry)
      total += cost
    return x, (tuple(new), total)


def layer_scores(
  param: Callable, shared: Any, position: Position, heads: Heads, sizes: Sizes
) -> tuple[Score, ...]:
  """All that changes the logits of one layer, which owns the parameters."""
  own = position.score(param, shared, sizes)
  return (own, *heads.scores(param, sizes))


def _same(x):
  return x

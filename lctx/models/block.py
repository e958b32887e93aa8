"""One layer: attention and feed-forward on a residual stream."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn

from lctx.kernels.base import Kernel
from lctx.layers.ffn import Feed
from lctx.layers.parameters import Owner, declare
from lctx.memory.base import Memory
from lctx.models.attention import Attention, LayerCarry
from lctx.models.heads import Heads
from lctx.models.parts import Dropout, Stack
from lctx.patterns.base import Pattern
from lctx.positions.base import Position, Score, Sizes
from lctx.types import Coords


class Shared(NamedTuple):
  """What the layers of a stack share, as the parts' `once` gave it."""

  position: Any
  memory: Any


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

  @nn.compact
  def __call__(
    self,
    x,
    carry: LayerCarry,
    scores: tuple[Score, ...] | None,
    shared: Shared,
    at: Coords,
    sizes: Sizes,
  ):
    """x, then the new carry and the auxiliary loss, as a scan has it."""
    if scores is None:
      scores = layer_scores(declare(self), shared.position, self, sizes)
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
      name='attention',
    )
    feed = Feed(stack.ffn, stack.ffn_width_of(x.shape[-1]), hidden, name='ffn')
    drop = nn.Dropout(hidden, deterministic=not self.has_rng('dropout'))
    before = norm_0 if stack.pre_norm else _same
    y, carry, penalty = attend(x, at, carry, scores, before, shared.memory)
    penalty += self.heads.penalty(scores)
    if stack.pre_norm:
      x = gate_0(x, drop(y))
      x = gate_1(x, feed(norm_1(x)))
    else:
      x = norm_0(gate_0(x, drop(y)))
      x = norm_1(gate_1(x, feed(x)))
    return x, (carry, penalty)


def layer_scores(
  param: Callable, shared: Any, layer: Any, sizes: Sizes
) -> tuple[Score, ...]:
  """All that changes the logits of one layer, which owns the parameters.

  `layer` has `position` and `heads`: a Block, or a whole model.
  """
  position = layer.position.score(param, shared, sizes)
  return (position, *layer.heads.scores(param, sizes))


def _same(x):
  return x

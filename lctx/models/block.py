"""One layer: attention and feed-forward on a residual stream."""

from typing import Any

from flax import linen as nn

from lctx.kernels.base import Kernel
from lctx.layers.ffn import FeedForward
from lctx.layers.norm import LayerNorm
from lctx.layers.parameters import declare
from lctx.memory.base import Memory
from lctx.models.attention import Attention, LayerCarry
from lctx.models.parts import Dropout, Stack
from lctx.patterns.base import Pattern
from lctx.positions.base import Position, Score, Sizes
from lctx.types import Coords


class Block(nn.Module):
  """Post-norm: x = norm(x + part(x)). Pre-norm: x = x + part(norm(x))."""

  stack: Stack
  sizes: Sizes
  position: Position
  pattern: Pattern
  memory: Memory
  dropout: Dropout
  kernel: Kernel

  @nn.compact
  def __call__(
    self, x, carry: LayerCarry, score: Score | None, shared: Any, at: Coords
  ):
    """x, then the new carry and the auxiliary loss, as a scan has it."""
    if score is None:
      score = self.position.score(declare(self), shared, self.sizes)
    first, second = LayerNorm(name='norm_0'), LayerNorm(name='norm_1')
    hidden = self.dropout.hidden
    attend = Attention(
      self.sizes,
      self.pattern,
      self.memory,
      self.dropout.attention,
      self.kernel,
      name='attention',
    )
    ffn_width = self.stack.ffn_width or 4 * x.shape[-1]
    feed = FeedForward(ffn_width, hidden, name='ffn')
    drop = nn.Dropout(hidden, deterministic=not self.has_rng('dropout'))
    before = first if self.stack.pre_norm else _same
    y, carry, penalty = attend(x, at, carry, score, before)
    if self.stack.pre_norm:
      x = x + drop(y)
      x = x + feed(second(x))
    else:
      x = first(x + drop(y))
      x = second(x + feed(x))
    return x, (carry, penalty)


def _same(x):
  return x

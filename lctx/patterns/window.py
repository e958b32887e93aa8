"""Patterns that see what is near: windows, with gaps or in chunks."""

import dataclasses

import jax.numpy as jnp

from lctx.patterns.base import Pattern, Reach
from lctx.types import distance, of_keys, of_queries


@dataclasses.dataclass(frozen=True)
class Window(Pattern):
  """Keys at most `before` steps behind the query and `after` ahead.

  Each side is counted by itself and without the query: a published
  `attention_window` of W keys is Window(W // 2, W // 2) in Hugging Face's
  Longformer, Window(W, W) in AllenAI's, Window(W - 1) in Mistral.
  """

  is_reach = True

  before: int
  after: int = 0

  def __post_init__(self):
    if min(self.before, self.after) < 0:
      raise ValueError(
        f'Window(before={self.before}, after={self.after}) counts steps, so '
        'neither can be negative. Use 0 to see only the query itself.'
      )

  def allowed(self, q_at, k_at, heads_N):
    steps = distance(q_at, k_at)
    return (-self.after <= steps) & (steps <= self.before)

  @property
  def reach(self):
    return Reach(self.before, self.after)


@dataclasses.dataclass(frozen=True)
class Dilated(Pattern):
  """Every n-th key of a window, n for each head (Beltagy et al. 2020, 3.1).

  Head h sees `before` keys behind it and `after` ahead, `gaps[h]` steps from
  one to the next; 1 = no gap.
  """

  before: int
  gaps: tuple[int, ...]
  after: int = 0

  def __post_init__(self):
    if min(self.before, self.after) < 0 or min(self.gaps, default=0) < 1:
      raise ValueError(
        f'Dilated(before={self.before}, gaps={self.gaps}, after={self.after}) '
        'counts keys, which cannot be negative, and needs a gap of at least 1 '
        'for each head. Use gaps of 1 for heads without dilation.'
      )

  def allowed(self, q_at, k_at, heads_N):
    steps, head_N111 = distance(q_at, k_at), heads_N.reshape(-1, 1, 1, 1)
    gap_N111 = sum(
      jnp.where(head_N111 == head, gap, 0) for head, gap in enumerate(self.gaps)
    )
    near = (-self.after * gap_N111 <= steps) & (steps <= self.before * gap_N111)
    return near & (steps % gap_N111 == 0)

  @property
  def reach(self):
    return Reach(self.before * max(self.gaps), self.after * max(self.gaps))

  @property
  def stride(self):
    return self.gaps

  def check_heads(self, num_heads):
    if len(self.gaps) != num_heads:
      raise ValueError(
        f'Dilated(gaps={self.gaps}) has gaps for {len(self.gaps)} heads, but '
        f'model.stack.num_heads = {num_heads}. Give one for each head.'
      )


@dataclasses.dataclass(frozen=True)
class Chunks(Pattern):
  """Keys of the query's own chunk of `size` tokens of its document.

  Blocks that see nothing outside; `Causal() & Chunks(size)` is the chunked
  attention of Llama 4's local layers.
  """

  size: int

  def __post_init__(self):
    if self.size < 1:
      raise ValueError(
        f'Chunks(size={self.size}) counts tokens and must be at least 1.'
      )

  def allowed(self, q_at, k_at, heads_N):
    chunk = of_queries(q_at.offset) // self.size
    return chunk == of_keys(k_at.offset) // self.size

  @property
  def reach(self):
    return Reach(self.size - 1, self.size - 1)

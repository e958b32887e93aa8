"""The seam of kernels: how sources become the output of attention."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from lctx.kernels.dropout import Dropout
from lctx.kernels.source import Source
from lctx.patterns.base import Pattern
from lctx.types import Array

ORDER = 'needs keys that lie in steps known when compiling'


@dataclasses.dataclass(frozen=True)
class Kernel:
  """softmax over the keys of all sources, times their values: [B, T, N, H].

  Logits and softmax are float32. A query that sees no key gets zeros. All
  kernels give the same, dropout included; `Dense` is the definition.
  """

  any_order: ClassVar[bool] = True  # serves keys in any; else in known steps

  def check(self, pattern: Pattern) -> None:
    """Raises ValueError for a pattern it cannot serve, naming what can."""

  def check_order(self, memory: str) -> None:
    """Raises ValueError if `memory` adds keys in an order it cannot serve."""
    if not self.any_order:
      raise ValueError(
        f'model.compute.kernel = {type(self).__name__.lower()} {ORDER}, but '
        f'model.memory = {memory} adds others. Use model.compute.kernel='
        'chunked, which takes any.'
      )

  def check_far(self, patterns: Sequence[Pattern], memory: str) -> None:
    """Raises ValueError if it cannot serve the sets of keys that `memory` adds
    to the segment's, by patterns of their own."""

  def check_dropout(self, rate: float) -> None:
    """Raises ValueError if it cannot drop this share of the weights."""

  def check_platform(self, platform: str) -> None:
    """Raises ValueError where it cannot run, naming what can."""

  def for_decoding(self) -> 'Kernel':
    """The kernel for single queries, whose coordinates promise nothing."""
    return self

  def __call__(
    self, sources: tuple[Source, ...], dropout: Dropout | None
  ) -> Array:
    raise NotImplementedError

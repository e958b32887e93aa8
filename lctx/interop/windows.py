"""Longformer's windows and global tokens, as a `config.json` has them."""

from typing import Any

from lctx.interop.options import Options
from lctx.memory import GlobalAttention
from lctx.patterns import Pattern
from lctx.presets.encoders import windows

MOST = 64  # tokens of a text that may be global


def global_attention(options: Options) -> dict[str, Any]:
  """A pattern and a memory, of `attention_window`: both sides of a query.

  Raises ValueError for a width that is odd.
  """
  given = options.take('attention_window', 512)
  each = tuple(given) if isinstance(given, list) else (given,)
  for width in each:
    if width < 2 or width % 2:
      raise ValueError(
        f'{options.where} has attention_window = {width}, which counts keys on '
        'both sides and must be even and above 0.'
      )
  pattern = windows(tuple(width // 2 for width in each))
  return {'pattern': pattern, 'memory': GlobalAttention(MOST)}


def widths_of(pattern: Pattern, depth: int) -> list[int]:
  """The way back, for each layer."""
  return [2 * x.before for x in pattern.of_layers(depth)]

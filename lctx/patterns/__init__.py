"""Which keys a query may see."""

from lctx.patterns.base import (
  Both,
  Either,
  Everything,
  Pattern,
  Reach,
  picture,
)
from lctx.patterns.block_sparse import BlockSparse
from lctx.patterns.causal import Causal, Sinks, Staircase
from lctx.patterns.chosen import GlobalTokens, Prefix
from lctx.patterns.layers import LayerPatterns
from lctx.patterns.window import Chunks, Dilated, Window

__all__ = [
  'BlockSparse',
  'Both',
  'Causal',
  'Chunks',
  'Dilated',
  'Either',
  'Everything',
  'GlobalTokens',
  'LayerPatterns',
  'Pattern',
  'Prefix',
  'Reach',
  'Sinks',
  'Staircase',
  'Window',
  'picture',
]

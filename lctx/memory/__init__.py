"""What a model carries from segment to segment, and what else it looks at."""

from lctx.memory.base import Layer, Memory
from lctx.memory.transient_global import TransientGlobal
from lctx.memory.xl import ProjectedXLCache, XLCache

__all__ = ['Layer', 'Memory', 'ProjectedXLCache', 'TransientGlobal', 'XLCache']

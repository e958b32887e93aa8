"""The grid: every position, pattern, score, kernel and memory.

One table for the tests (`test_grid.py`, `test_memory_grid.py`) and for
`docs/support_matrix.md`, which `support_matrix.py` writes of a run. A new part
is one entry here.
"""

import functools
import itertools

from lctx.kernels.banded import Banded
from lctx.kernels.chunked import Chunked
from lctx.kernels.dense import Dense
from lctx.kernels.fused import Fused
from lctx.kernels.splash import Splash
from lctx.memory import (
  Associative,
  Compressive,
  DenseRetrieval,
  GatedDelta,
  GatedLinear,
  GlobalAttention,
  HeadGate,
  Infini,
  LongMemory,
  Melodi,
  Memory,
  OnLayers,
  Retrieval,
  SinkCache,
  StateCell,
  Together,
  Tokens,
  TransientGlobal,
  XLCache,
)
from lctx.models.heads import (
  AdaptiveQueries,
  AdaptiveScores,
  AdaptiveSpan,
  Heads,
)
from lctx.patterns import (
  BlockSparse,
  Causal,
  Chunks,
  Dilated,
  Everything,
  GlobalTokens,
  Prefix,
  Sinks,
  Staircase,
  Window,
)
from lctx.positions import (
  Alibi,
  DynamicNtk,
  Learned,
  LearnedRelative,
  Linear,
  Llama3,
  LongRope,
  NoPosition,
  NtkAware,
  NtkByParts,
  RelativeXL,
  Rope,
  Sinusoidal,
  T5Bias,
  Yarn,
)

SEGMENT, SEGMENTS, HEADS, MEMORY = 4, 3, 2, 8
LENGTH = SEGMENT * SEGMENTS

POSITIONS = {
  'none': NoPosition(),
  'learned': Learned(LENGTH),
  'sinusoidal': Sinusoidal(),
  'alibi': Alibi(),
  't5': T5Bias(8, 7),
  't5, both ways': T5Bias(8, 7, both_ways=True),
  'xl': RelativeXL(),
  'xl, clamped': RelativeXL(clamp=5, per_layer=True),
  'learned relative': LearnedRelative(9, ahead=3),
  'rope': Rope(),
  'rope, part, interleaved': Rope(share=0.5, interleaved=True),
  'rope, linear': Rope(stretch=Linear(4.0)),
  'rope, ntk': Rope(stretch=NtkAware(4.0)),
  'rope, dynamic ntk': Rope(stretch=DynamicNtk(2.0, 4, LENGTH)),
  'rope, by parts': Rope(stretch=NtkByParts(4.0, 64)),
  'rope, yarn': Rope(stretch=Yarn(4.0, 64)),
  'rope, longrope': Rope(
    stretch=LongRope((1.0, 1.5, 2.0, 3.0), (2.0, 3.0, 4.0, 5.0), 4, LENGTH, 4.0)
  ),
  'rope, llama 3': Rope(stretch=Llama3(8.0, 64)),
}
# Those whose terms of logits differ in more than numbers.
KINDS = (
  'none',
  'alibi',
  't5',
  't5, both ways',
  'xl',
  'learned relative',
  'rope',
)
NO_TERMS = 'none', 'learned', 'sinusoidal'
READ = (*KINDS, 'learned', 'sinusoidal', 'xl, clamped', 'rope, dynamic ntk')
PATTERNS = {
  'causal': Causal(),
  'window': Window(5),
  'dilated per head': Dilated(2, (1, 3)),
  'causal chunks': Causal() & Chunks(5),
  'window or sinks': Window(3) | Sinks(2),
  'causal block-sparse': Causal() & BlockSparse(6, 2, random=1, heads=HEADS),
  'causal global tokens': Causal() & (Window(2) | GlobalTokens(2)),
  'staircase': Staircase(MEMORY),
  'bidirectional': Everything(),
  'window, two sides': Window(3, 4),
  'dilated, two sides': Dilated(1, (2, 1), after=2),
  'chunks': Chunks(5),
  'prefix': Causal() | Prefix(5),
  'global tokens': Window(1, 1) | GlobalTokens(2),
  'block-sparse': BlockSparse(6, 2, random=1, heads=HEADS),
  'window and sums of blocks': Window(3, 3),
  'causal window and sums of blocks': Window(3),
  'window and global attention': Window(2, 3),
}
BESIDE = {  # what is looked at beside tokens (LongT5, Longformer)
  'window and sums of blocks': TransientGlobal(
    3, position=T5Bias(8, 7, both_ways=True)
  ),
  'causal window and sums of blocks': TransientGlobal(
    3, causal=True, position=T5Bias(8, 7)
  ),
  'window and global attention': GlobalAttention(5, bias=False, first=2),
}
SCORES = {
  'plain': Heads(),
  'soft-cap, one key head': Heads(keys=1, cap=2.0),
  'adaptive span': Heads(span=AdaptiveSpan(LENGTH, 4, start=0.3)),
  'adaptive scores': Heads(adaptive=AdaptiveScores()),
  'adaptive queries': Heads(adaptive=AdaptiveQueries()),
}
KERNELS = {
  'dense': Dense(),
  'chunked': Chunked(3, 5),
  'banded': Banded(3, 0.002),
  'fused': Fused(8, 8, interpret=True),
  'fused, gpu': Fused(8, 8, interpret=True, platform='gpu'),
  'splash': Splash(128, 128, interpret=True),
}

# In segments of SEGMENT tokens.
MEMORIES = {
  'xl': XLCache(MEMORY),
  'compressive': Compressive(SEGMENT, 6, 2),
  'tokens': Tokens(2),
  'associative': Associative(2, 4, 2),
  'state cell': StateCell(3),
  'infini': Infini(),
  'infini, delta': Infini(delta=True),
  'gated delta': GatedDelta(chunk=3),
  'gated linear, beside': GatedLinear(gate=HeadGate()),
  'retrieval': Retrieval(LENGTH, 3),
  'dense retrieval': DenseRetrieval(LENGTH),
  'sinks': SinkCache(5, 2),
  'melodi': Melodi(SEGMENT, 2, LongMemory(4, 2)),
  'xl and infini': Together(XLCache(3), Infini()),
  'xl and tokens': Together(XLCache(5), Tokens(1)),
  'xl, and a state cell above': OnLayers(
    (-1,), Together(XLCache(5), StateCell(2)), XLCache(5)
  ),
}
# What they recall adds up, so one model has all that can be in a cell, as a
# memory named `several`: each meets its position and its pattern there.
SEVERAL = (
  'state cell',
  'infini',
  'infini, delta',
  'retrieval',
  'dense retrieval',
  'gated linear, beside',
)
# Those that say themselves what of a segment is seen.
WHOLE = (
  'compressive',
  'tokens',
  'associative',
  'sinks',
  'melodi',
  'xl and tokens',
)


def empty_memory(position: str, pattern: str, memory: str) -> str | None:
  """Why a cell of position, pattern and memory cannot be, or None."""
  if position == 't5' and looks_ahead(pattern):
    return 'causal buckets give keys ahead no distance'
  if pattern in BESIDE:
    return 'what is seen beside tokens is the memory of that column'
  one_way = 'compressive', 'sinks', 'gated delta', 'gated linear, beside'
  if memory in one_way and looks_ahead(pattern):
    return 'that memory looks back alone'
  if memory in WHOLE and pattern not in ('causal', 'bidirectional'):
    return 'that memory says itself what of a segment is seen'
  if memory == 'gated delta' and (
    pattern != 'causal' or position not in NO_TERMS
  ):
    return 'that memory is in place of attention, where this has no effect'
  if 'retrieval' in memory and PATTERNS[pattern].stride:
    return 'that memory looks up keys in the gaps'
  return None


def memory_cells(positions=POSITIONS, patterns=PATTERNS, memories=MEMORIES):
  """Every cell of position, pattern and memory that can be."""
  cells = itertools.product(positions, patterns, memories)
  return [cell for cell in cells if not empty_memory(*cell)]


def several_cells(positions=POSITIONS):
  """Every cell of position, pattern and `several` memories."""
  cells = itertools.product(positions, PATTERNS, ['several'])
  return [cell for cell in cells if names_of(*cell)]


def names_of(position: str, pattern: str, memory: str) -> tuple[str, ...]:
  """The memories of a cell."""
  if memory != 'several':
    return (memory,)
  able = (x for x in SEVERAL if not empty_memory(position, pattern, x))
  return tuple(able)


def memory_of(*cell: str) -> Memory:
  """The memory of a cell's model."""
  return functools.reduce(Together, (MEMORIES[x] for x in names_of(*cell)))


def met(cell) -> set[tuple[int, str, str]]:
  """Axis, position or pattern, and memory, of all that meet in a cell."""
  return {(*x, name) for x in enumerate(cell[:2]) for name in names_of(*cell)}


def with_memory(cells):
  """Cells in which every position, and every pattern, meets every memory."""
  wanted, chosen = set().union(*map(met, cells)), []
  while wanted:
    best = max(cells, key=lambda cell: len(met(cell) & wanted))
    chosen.append(best)
    wanted -= met(best)
  return chosen


def empty(position: str, pattern: str, score: str, kernel: str) -> str | None:
  """Why a cell cannot be, or None."""
  if position == 't5' and looks_ahead(pattern):
    return 'causal buckets give keys ahead no distance'
  if pattern in BESIDE and score in ('adaptive scores', 'adaptive queries'):
    return 'what is seen beside tokens has no positions to compare'
  if kernel == 'banded' and (
    pattern in BESIDE or None in PATTERNS[pattern].reach
  ):
    return 'a band has an end on both sides'
  if kernel != 'splash':
    return None
  terms = 'alibi', 't5', 'xl', 'learned relative', 'adaptive'
  if any(part.startswith(terms) for part in (position, score)):
    return 'the stock kernel has no term of distance'
  if pattern in BESIDE or not PATTERNS[pattern].is_reach:
    return (
      'the stock kernel masks one set of keys, by a window and by documents'
    )
  return None


def looks_ahead(pattern: str) -> bool:
  return PATTERNS[pattern].reach.after != 0


def cells(positions=POSITIONS) -> list[tuple[str, str, str, str]]:
  return list(itertools.product(positions, PATTERNS, SCORES, KERNELS))


def full(positions=POSITIONS) -> list[tuple[str, str, str, str]]:
  """Every cell that can be."""
  return [cell for cell in cells(positions) if not empty(*cell)]


def models() -> list[tuple[str, str, str, str]]:
  """Every position, pattern and score, with one kernel in turn."""
  able = {}
  for cell in full():
    able.setdefault(cell[:3], []).append(cell[3])
  return [
    (*parts, kernels[turn % len(kernels)])
    for turn, (parts, kernels) in enumerate(able.items())
  ]


def pairs(positions=POSITIONS) -> list[tuple[str, str, str, str]]:
  """Cells in which any two entries that can meet do meet: greedy, fixed."""
  able, chosen = full(positions), []

  def entries(cell):
    return set(itertools.combinations(enumerate(cell), 2))

  wanted = set().union(*map(entries, able))
  while wanted:
    best = max(able, key=lambda cell: len(entries(cell) & wanted))
    chosen.append(best)
    wanted -= entries(best)
  return chosen


def each(positions=POSITIONS) -> list[tuple[str, str, str, str]]:
  """Few cells in which every entry occurs: those that bring most first."""
  able, chosen = full(positions), []
  wanted = {entry for cell in able for entry in enumerate(cell)}
  while wanted:
    best = max(able, key=lambda cell: len(wanted & set(enumerate(cell))))
    chosen.append(best)
    wanted -= set(enumerate(best))
  return chosen

"""Published models: each is one function that picks parts."""

from lctx.memory import (
  Associative,
  Compressive,
  Compressor,
  Conv,
  ElementGate,
  GatedDelta,
  Infini,
  Melodi,
  Memory,
  MemoryGate,
  OnLayers,
  Retrieval,
  SinkCache,
  StateCell,
  Together,
  Tokens,
  XLCache,
)
from lctx.models.decoder import Decoder
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.vocabulary import Embedding
from lctx.patterns.base import Pattern
from lctx.patterns.causal import Causal
from lctx.positions import Position, RelativeXL, Rope, T5Bias


def transformer_xl(
  depth: int,
  width: int,
  num_heads: int,
  memory_length: int,
  *,
  head_width: int | None = None,
  ffn_width: int | None = None,
  pre_norm: bool = False,
  same_length: bool = False,
  clamp: int | None = None,
  per_layer_biases: bool = False,
  position: Position | None = None,
  dropout: float = 0.0,
  attention_dropout: float = 0.0,
  memory_dropout: float = 0.0,
  vocab: int | None = None,
  embed_width: int | None = None,
  cutoffs: tuple[int, ...] = (),
  div_val: int = 1,
  tie_weights: bool = True,
  tie_projections: tuple[bool, ...] = (),
  compute: Compute | None = None,
) -> Decoder:
  """Transformer-XL (Dai et al. 2019), with all that its code has.

  Widths and lengths count tokens and channels; `head_width` defaults to
  width / num_heads, `ffn_width` to 4 x width, `vocab` to the tokenizer's.
  `clamp` and `per_layer_biases` shape the sinusoidal scheme; `position`
  replaces it (LearnedRelative is the published `attn_type` 1).

  Raises:
    ValueError: a size that cannot be, naming its field.
  """
  if position is None:
    position = RelativeXL(clamp, per_layer_biases)
  elif clamp is not None or per_layer_biases:
    raise ValueError(
      'transformer_xl got both a position and clamp or per_layer_biases, '
      'which shape the default one. Set them on the position itself.'
    )
  return Decoder(
    embed=Embedding(
      width=width,
      vocab=vocab,
      embed_width=embed_width,
      cutoffs=cutoffs,
      div_val=div_val,
      tie_weights=tie_weights,
      tie_projections=tie_projections,
    ),
    stack=Stack(depth, num_heads, head_width, ffn_width, pre_norm),
    position=position,
    pattern=Causal(),
    memory=XLCache(memory_length, same_length),
    dropout=Dropout(dropout, attention_dropout, memory_dropout),
    compute=compute or Compute(),
  )


def remembering(
  depth: int,
  width: int,
  num_heads: int,
  memory: Memory,
  *,
  position: Position | None = None,
  pattern: Pattern | None = None,
  ffn_width: int | None = None,
  dropout: float = 0.0,
  memory_dropout: float = 0.0,
  vocab: int | None = None,
  compute: Compute | None = None,
) -> Decoder:
  """A pre-norm decoder of any memory: what the models below have in common.

  `position` defaults to rotary, `pattern` to causal; widths as in
  `transformer_xl`.
  """
  return Decoder(
    embed=Embedding(width=width, vocab=vocab),
    stack=Stack(depth, num_heads, ffn_width=ffn_width, pre_norm=True),
    position=position or Rope(),
    pattern=pattern or Causal(),
    memory=memory,
    dropout=Dropout(dropout, 0.0, memory_dropout),
    compute=compute or Compute(),
  )


def compressive(
  depth: int,
  width: int,
  num_heads: int,
  recent: int,
  compressed: int,
  rate: int = 4,
  *,
  compressor: Compressor | None = None,
  **fields,
) -> Decoder:
  """Compressive Transformer (Rae et al. 2019); `fields` as `remembering`."""
  memory = Compressive(recent, compressed, rate, compressor or Conv())
  fields = {'position': RelativeXL()} | fields
  return remembering(depth, width, num_heads, memory, **fields)


def block_recurrent(
  depth: int,
  width: int,
  num_heads: int,
  window: int,
  states: int = 512,
  cell: str = 'skip',
  *,
  gate: MemoryGate | None = None,
  layer: int = -3,
  **fields,
) -> Decoder:
  """Block-Recurrent Transformer (Hutchins et al. 2022).

  A cell of `states` on one layer, and on all layers the last `window` states;
  segments are as long as the window. `fields` as `remembering`.
  """
  near = XLCache(window)
  cells = StateCell(states, cell, gate or ElementGate())
  memory = OnLayers((layer,), Together(near, cells), near)
  fields = {'position': T5Bias()} | fields
  return remembering(depth, width, num_heads, memory, **fields)


def memorizing(
  depth: int,
  width: int,
  num_heads: int,
  slots: int = 8192,
  neighbours: int = 32,
  cache: int = 512,
  *,
  layer: int = -4,
  **fields,
) -> Decoder:
  """Memorizing Transformer (Wu et al. 2022): one layer looks up its past.

  All layers have a cache of `cache` states. `fields` as `remembering`.
  """
  near = XLCache(cache)
  memory = OnLayers(
    (layer,), Together(near, Retrieval(slots, neighbours)), near
  )
  fields = {'position': T5Bias()} | fields
  return remembering(depth, width, num_heads, memory, **fields)


def recurrent_memory(
  depth: int, width: int, num_heads: int, count: int = 10, **fields
) -> Decoder:
  """RMT (Bulatov et al. 2022): `count` memory tokens; `fields` as
  `remembering`."""
  return remembering(depth, width, num_heads, Tokens(count), **fields)


def associative_memory(
  depth: int,
  width: int,
  num_heads: int,
  count: int = 10,
  key_width: int = 64,
  **fields,
) -> Decoder:
  """ARMT (Rodkin et al. 2024); `fields` as `remembering`."""
  memory = Associative(count, key_width)
  return remembering(depth, width, num_heads, memory, **fields)


def infini(
  depth: int, width: int, num_heads: int, delta: bool = True, **fields
) -> Decoder:
  """Infini-attention (Munkhdalai et al. 2024); `fields` as `remembering`."""
  return remembering(depth, width, num_heads, Infini(delta), **fields)


def gated_delta(
  depth: int,
  width: int,
  num_heads: int,
  cache: int,
  every: int = 4,
  **fields,
) -> Decoder:
  """Gated DeltaNet in a hybrid (Yang et al. 2024; Qwen3-Next's ratio).

  Every `every`-th layer attends, with a cache of `cache` states; the others
  are states that each token writes. `fields` as `remembering`.
  """
  attends = tuple(range(every - 1, depth, every))
  memory = OnLayers(attends, XLCache(cache), GatedDelta())
  return remembering(depth, width, num_heads, memory, **fields)


def melodi(
  depth: int,
  width: int,
  num_heads: int,
  segment: int,
  short: int = 64,
  long: int = 4096,
  step: int = 32,
  *,
  layer: int | None = None,
  **fields,
) -> Decoder:
  """Melodi (Chen et al. 2024): the long memory on `layer`, None = the middle.

  `fields` as `remembering`.
  """
  middle = depth // 2 if layer is None else layer
  of_middle = Melodi(segment, short, long, step)
  memory = OnLayers((middle,), of_middle, Melodi(segment, short))
  return remembering(depth, width, num_heads, memory, **fields)


def streaming(
  depth: int, width: int, num_heads: int, recent: int, sinks: int = 4, **fields
) -> Decoder:
  """StreamingLLM (Xiao et al. 2023); `fields` as `remembering`."""
  memory = SinkCache(recent, sinks)
  return remembering(depth, width, num_heads, memory, **fields)

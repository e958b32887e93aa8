"""Published models that carry memory.

One whose memory is one part, the same in every layer, has no function of its
own: `remembering(depth, width, num_heads, Infini(delta=True))`, with Tokens
(RMT), Associative (ARMT) or SinkCache (StreamingLLM) likewise. A Compressive
Transformer (Rae et al. 2019) has position=RelativeXL() beside its memory.
"""

import dataclasses

from lctx.memory import (
  GatedDelta,
  Melodi,
  Memory,
  OnLayers,
  Retrieval,
  StateCell,
  Together,
  XLCache,
)
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.text import Decoder
from lctx.models.vocabulary import Embedding
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
  depth: int, width: int, num_heads: int, memory: Memory, **parts
) -> Decoder:
  """A pre-norm decoder of any memory: what the models below have in common.

  `parts` are Decoder's fields, in place of rotary positions, a causal pattern
  and an embedding of the tokenizer's size. Raises ValueError for sizes that
  cannot be, naming the field.
  """
  usual = {
    'embed': Embedding(width=width),
    'stack': Stack(depth, num_heads, pre_norm=True),
    'position': Rope(),
    'pattern': Causal(),
  }
  return Decoder(memory=memory, **usual | parts)


def block_recurrent(
  depth: int,
  width: int,
  num_heads: int,
  window: int,
  cell: StateCell | None = None,
  layer: int = -3,
  **parts,
) -> Decoder:
  """Block-Recurrent Transformer (Hutchins et al. 2022).

  A cell of states on one layer; on all layers every query sees `window` keys,
  itself included. Segments are as long as that. The published code also brings
  queries and keys to unit size, which the cell does not. `parts` as
  `remembering`.
  """
  near = XLCache(window, same_length=True)
  memory = OnLayers((layer,), Together(near, cell or StateCell()), near)
  parts = {'position': T5Bias()} | parts
  return remembering(depth, width, num_heads, memory, **parts)


def memorizing(
  depth: int,
  width: int,
  num_heads: int,
  cache: int = 512,
  retrieval: Retrieval | None = None,
  layer: int = -4,
  **parts,
) -> Decoder:
  """Memorizing Transformer (Wu et al. 2022): one layer looks up its past.

  In all layers every query sees `cache` keys, itself included. The published
  code has no positions on the layer that looks up, and brings queries and keys
  to unit size, as heads=Heads(norm=RMSNorm()) does. `parts` as `remembering`.
  """
  near = XLCache(cache, same_length=True)
  looks = Together(near, retrieval or Retrieval())
  parts = {'position': T5Bias()} | parts
  memory = OnLayers((layer,), looks, near)
  return remembering(depth, width, num_heads, memory, **parts)


def gated_delta(
  depth: int,
  width: int,
  num_heads: int,
  cache: int,
  every: int = 4,
  **parts,
) -> Decoder:
  """Gated DeltaNet in a hybrid (Yang et al. 2024; Qwen3-Next's ratio).

  Every `every`-th layer attends, with a cache of `cache` states; the others
  are states that each token writes. `parts` as `remembering`.
  """
  if not 2 <= every <= depth:
    raise ValueError(
      f'every = {every} must be 2 to depth = {depth}: one of so many layers '
      'attends, and the others do not.'
    )
  attends = tuple(range(every - 1, depth, every))
  memory = OnLayers(attends, XLCache(cache), GatedDelta())
  return remembering(depth, width, num_heads, memory, **parts)


def melodi(
  depth: int,
  width: int,
  num_heads: int,
  memory: Melodi,
  layer: int | None = None,
  **parts,
) -> Decoder:
  """Melodi (Chen et al. 2024): a long memory on `layer`, None = the middle.

  The other layers have the same short one. `parts` as `remembering`.
  """
  middle = depth // 2 if layer is None else layer
  memory = OnLayers((middle,), memory, dataclasses.replace(memory, long=None))
  return remembering(depth, width, num_heads, memory, **parts)

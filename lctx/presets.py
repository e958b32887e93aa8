"""Published models: each is one function that picks parts."""

from lctx.memory.xl import XLCache
from lctx.models.decoder import Decoder
from lctx.models.parts import Compute, Dropout, Stack
from lctx.models.vocabulary import Embedding
from lctx.patterns.causal import Causal
from lctx.positions.base import Position
from lctx.positions.xl import RelativeXL


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

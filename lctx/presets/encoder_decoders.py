"""Published encoder-decoders, whose decoder writes in one window.

`parts` as for decoders: a dict changes fields of the part that is chosen, of
the two sides too, as in t5(8, 512, 6, encoder={'memory': Tokens()}).
"""

from lctx.layers.ffn import FeedForward, Geglu, Gelu
from lctx.layers.norm import LayerNorm, RMSNorm
from lctx.memory import GlobalAttention, TransientGlobal
from lctx.models.encoder_decoder import EncoderDecoder, Side
from lctx.models.heads import Heads
from lctx.models.parts import Stack
from lctx.models.vocabulary import Embedding
from lctx.patterns import Causal, Everything, Window
from lctx.positions import Learned, T5Bias
from lctx.presets.chosen import with_parts
from lctx.presets.encoders import windows


def t5(
  depth: int,
  width: int,
  num_heads: int,
  *,
  ffn: FeedForward | None = None,
  tied: bool = False,
  **parts,
) -> EncoderDecoder:
  """T5 (Raffel et al. 2020): version 1.1, or 1.0 if `tied`.

  That has one table for both ends and Relu(bias=False) in place of the gated
  `ffn`. Logits are not scaled, and there are no biases at all.
  """
  stack = Stack(
    depth,
    num_heads,
    pre_norm=True,
    final_norm=True,
    norm=RMSNorm(),
    ffn=ffn or Geglu(exact=False),
  )
  heads = Heads(scale=1.0)
  embed = Embedding(
    width,
    scaled=False,
    out_bias=False,
    tie_weights=tied,
    out_scale=width**-0.5 if tied else 1.0,
  )
  usual = {
    'embed': embed,
    'encoder': Side(stack, T5Bias(both_ways=True), Everything(), heads=heads),
    'decoder': Side(stack, T5Bias(), Causal(), heads=heads),
  }
  return EncoderDecoder(**with_parts(usual, parts))


def longt5(
  depth: int,
  width: int,
  num_heads: int,
  *,
  radius: int = 127,
  block: int | None = 16,
  **parts,
) -> EncoderDecoder:
  """LongT5 (Guo et al. 2022): T5 1.1 whose encoder sees `radius` each way.

  And the sum of every `block` tokens: transient global attention. None = local
  attention alone.
  """
  usual = {'encoder': {'pattern': Window(radius, radius)}}
  if block is not None:
    usual['encoder']['memory'] = TransientGlobal(block)
  return t5(depth, width, num_heads, **with_parts(usual, parts))


def bart(
  depth: int, width: int, num_heads: int, context: int, **parts
) -> EncoderDecoder:
  """BART (Lewis et al. 2020). The first two positions are no token's."""
  norm = LayerNorm()
  stack = Stack(depth, num_heads, norm=norm, ffn=Gelu())
  heads = Heads(bias=True, out_bias=True)
  position = Learned(context + 2, first=2)
  usual = {
    'embed': Embedding(width, scaled=False, norm=norm),
    'encoder': Side(stack, position, Everything(), heads=heads),
    'decoder': Side(stack, position, Causal(), heads=heads),
  }
  return EncoderDecoder(**with_parts(usual, parts))


def led(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  written: int = 1024,
  window: int | tuple[int, ...] = 256,
  most: int = 64,
  **parts,
) -> EncoderDecoder:
  """Longformer-Encoder-Decoder (Beltagy et al. 2020): BART that reads more.

  `context` tokens are read and `written` ones written, `window` and `most` as
  for `longformer`. No position is nobody's.
  """
  usual = {
    'encoder': {
      'position': Learned(context),
      'pattern': windows(window),
      'memory': GlobalAttention(most),
    },
    'decoder': {'position': Learned(written)},
  }
  return bart(depth, width, num_heads, context, **with_parts(usual, parts))

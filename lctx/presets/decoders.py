"""Published decoders that read one window, with a plain cache of it.

`context` is how many states the cache holds, for what is read before: as many
tokens as the model was trained to read. `window` is how many keys a query sees,
with its own; None = all; or a tuple, of which layer i has entry i, and begins
again after the last. `parts` are Decoder's fields in place
of those chosen here; a dict changes fields of the one that is chosen, as in
llama(32, 4096, 32, 8192, heads={'keys': 8}, stack={'ffn_width': 14_336}). All
raise ValueError for sizes that cannot be, naming the field.
"""

import dataclasses
from typing import Any

from lctx.layers.ffn import Geglu, Gelu, Swiglu
from lctx.layers.norm import LayerNorm, RMSNorm
from lctx.memory import Memory, OnLayers, XLCache
from lctx.models.heads import Heads
from lctx.models.parts import Stack
from lctx.models.text import Decoder
from lctx.models.vocabulary import Embedding
from lctx.patterns import Causal, LayerPatterns, Window
from lctx.positions import Alibi, Learned, Rope
from lctx.presets.chosen import with_parts

Windows = int | None | tuple[int | None, ...]
BIASED = Heads(bias=True, out_bias=True)


def gpt2(
  depth: int, width: int, num_heads: int, context: int, **parts
) -> Decoder:
  """GPT-2 (Radford et al. 2019)."""
  usual = {
    'embed': _bare(width),
    'stack': _stack(depth, num_heads, LayerNorm(), Gelu(exact=False)),
    'position': Learned(context),
    'heads': BIASED,
  }
  return _decoder(usual, parts, context)


def llama(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  window: Windows = None,
  **parts,
) -> Decoder:
  """Llama (Touvron et al. 2023), and what differs from it in parts.

  Mistral has a `window`, Qwen 2.5 heads={'bias': True}, Qwen 3
  heads={'norm': RMSNorm()}.
  """
  usual = {
    'embed': _bare(width, tie_weights=False),
    'stack': _stack(depth, num_heads, RMSNorm(), Swiglu()),
    'position': Rope(),
    'heads': Heads(),
  }
  return _decoder(usual, parts, context, window)


def gemma(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  window: Windows = None,
  **parts,
) -> Decoder:
  """Gemma (2024), and what differs from it in parts.

  Gemma 2 has window=(4096, None), stack={'norm_after': True}, heads={'cap':
  50.0, 'scale': 1 / 16} and embed={'out_cap': 30.0}. Gemma 3 has window=(1024,)
  * 5 + (None,), norm_after, heads={'norm': norm, 'scale': 1 / 16} with the norm
  of the stack, and position=LayerPositions((Rope(),) * 5 + (Rope(1e6),)).
  """
  norm = RMSNorm(zero_centred=True)
  usual = {
    'embed': Embedding(width, out_bias=False),
    'stack': _stack(depth, num_heads, norm, Geglu(exact=False)),
    'position': Rope(),
    'heads': Heads(),
  }
  return _decoder(usual, parts, context, window)


def gpt_neox(
  depth: int, width: int, num_heads: int, context: int, **parts
) -> Decoder:
  """GPT-NeoX, Pythia (Black et al. 2022): a quarter of each head rotates."""
  stack = _stack(depth, num_heads, LayerNorm(), Gelu())
  usual = {
    'embed': _bare(width, tie_weights=False),
    'stack': dataclasses.replace(stack, parallel=True),
    'position': Rope(share=0.25),
    'heads': BIASED,
  }
  return _decoder(usual, parts, context)


def bloom(
  depth: int, width: int, num_heads: int, context: int, **parts
) -> Decoder:
  """Bloom (Scao et al. 2022): ALiBi, and a norm of the embedded tokens."""
  usual = {
    'embed': _bare(width, norm=LayerNorm()),
    'stack': _stack(depth, num_heads, LayerNorm(), Gelu(exact=False)),
    'position': Alibi(),
    'heads': BIASED,
  }
  return _decoder(usual, parts, context)


def _decoder(
  usual: dict[str, Any],
  parts: dict[str, Any],
  context: int,
  window: Windows = None,
) -> Decoder:
  each = window if isinstance(window, tuple) else (window,)
  patterns = tuple(Causal() if x is None else Window(x - 1) for x in each)
  usual['pattern'] = patterns[0] if len(each) == 1 else LayerPatterns(patterns)
  usual['memory'] = _caches(usual['stack'].depth, context, each)
  return Decoder(**with_parts(usual, parts))


def _caches(depth: int, context: int, each: tuple[int | None, ...]) -> Memory:
  """Of what each layer sees: layers with a window keep no more."""
  lengths = [min(context, x or context) for x in each]
  lengths = [lengths[i % len(each)] for i in range(depth)]
  least, most = min(lengths), max(lengths)
  if least == most:
    return XLCache(most)
  if {*lengths} != {least, most}:
    raise ValueError(f'window = {each} has more than two widths, one too many.')
  near = tuple(i for i, length in enumerate(lengths) if length == least)
  return OnLayers(near, XLCache(least), XLCache(most))


def _stack(depth, num_heads, norm, ffn) -> Stack:
  return Stack(
    depth, num_heads, pre_norm=True, final_norm=True, norm=norm, ffn=ffn
  )


def _bare(width: int, **fields) -> Embedding:
  """Tokens as they are in the table, and no biases behind them."""
  return Embedding(width, scaled=False, out_bias=False, **fields)

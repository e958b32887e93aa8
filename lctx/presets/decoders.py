"""Published decoders that read one window, with a plain cache of it.

`context` is how many states the cache holds, for what is read before: as many
tokens as the model was trained to read. `parts` are Decoder's fields in place
of those chosen here; a dict changes fields of the one that is chosen, as in
llama(32, 4096, 32, 8192, heads={'keys': 8}, stack={'ffn_width': 14_336}). All
raise ValueError for sizes that cannot be, naming the field.
"""

import dataclasses
from typing import Any

from lctx.layers.ffn import Geglu, Gelu, Swiglu
from lctx.layers.norm import LayerNorm, RMSNorm
from lctx.memory import XLCache
from lctx.models.heads import Heads
from lctx.models.parts import Stack
from lctx.models.reader import Decoder
from lctx.models.vocabulary import Embedding
from lctx.patterns import Causal, Window
from lctx.positions import Alibi, Learned, Rope

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
  window: int | None = None,
  **parts,
) -> Decoder:
  """Llama (Touvron et al. 2023), and what differs from it in parts.

  Mistral has a `window`, of that many keys with the query's own, Qwen 2.5
  heads={'bias': True}, Qwen 3 heads={'norm': RMSNorm()}.
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
  window: int | None = None,
  **parts,
) -> Decoder:
  """Gemma (2024), and Gemma 2 where all layers look alike.

  That has stack={'norm_after': True}, heads={'cap': 50.0, 'scale': 1 / 16} and
  embed={'out_cap': 30.0}. `window` as `llama`.
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
  window: int | None = None,
) -> Decoder:
  usual['pattern'] = Causal() if window is None else Window(window - 1)
  usual['memory'] = XLCache(min(context, window or context))
  for name, part in parts.items():
    if isinstance(part, dict):
      part = dataclasses.replace(usual[name], **part)
    usual[name] = part
  return Decoder(**usual)


def _stack(depth, num_heads, norm, ffn) -> Stack:
  return Stack(
    depth, num_heads, pre_norm=True, final_norm=True, norm=norm, ffn=ffn
  )


def _bare(width: int, **fields) -> Embedding:
  """Tokens as they are in the table, and no biases behind them."""
  return Embedding(width, scaled=False, out_bias=False, **fields)

"""Published decoders that read one window, with a plain cache of it.

`context` is how many states the cache holds, for what is read before: as many
tokens as the model was trained to read. `parts` are Decoder's fields, in place
of those chosen here. All raise ValueError for sizes that cannot be, naming the
field.
"""

from lctx.layers.ffn import Geglu, Gelu, Swiglu
from lctx.layers.norm import LayerNorm, Norm, RMSNorm
from lctx.memory import XLCache
from lctx.models.decoder import Decoder
from lctx.models.heads import Heads
from lctx.models.parts import Stack
from lctx.models.vocabulary import Embedding
from lctx.patterns import Causal, Window
from lctx.positions import Alibi, Learned, Rope


def gpt2(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  vocab: int | None = None,
  ffn_width: int | None = None,
  epsilon: float = 1e-5,
  exact: bool = False,
  **parts,
) -> Decoder:
  """GPT-2 (Radford et al. 2019); `exact`: GELU by erf, not by tanh."""
  usual = {
    'embed': _embedding(width, vocab),
    'stack': Stack(
      depth,
      num_heads,
      ffn_width=ffn_width,
      pre_norm=True,
      final_norm=True,
      norm=LayerNorm(epsilon),
      ffn=Gelu(exact=exact),
    ),
    'position': Learned(context),
    'pattern': Causal(),
    'memory': XLCache(context),
    'heads': Heads(bias=True, out_bias=True),
  }
  return Decoder(**usual | parts)


def llama(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  vocab: int | None = None,
  key_heads: int | None = None,
  head_width: int | None = None,
  ffn_width: int | None = None,
  window: int | None = None,
  bias: bool = False,
  out_bias: bool = False,
  ffn_bias: bool = False,
  key_norm: Norm | None = None,
  epsilon: float = 1e-6,
  tie_weights: bool = False,
  position: Rope | None = None,
  **parts,
) -> Decoder:
  """Llama (Touvron et al. 2023), and what differs from it in parts.

  Mistral has a `window`, of that many keys with the query's own; Qwen 2.5 a
  `bias` of queries, keys and values, Qwen 3 a `key_norm` of queries and keys.
  `key_heads` None = one for each head of queries.
  """
  usual = {
    'embed': _embedding(width, vocab, tie_weights=tie_weights),
    'stack': Stack(
      depth,
      num_heads,
      head_width,
      ffn_width,
      pre_norm=True,
      final_norm=True,
      norm=RMSNorm(epsilon),
      ffn=Swiglu(bias=ffn_bias),
    ),
    'position': position or Rope(),
    'pattern': Causal() if window is None else Window(window - 1),
    'memory': XLCache(context if window is None else min(context, window)),
    'heads': Heads(
      keys=None if key_heads == num_heads else key_heads,
      bias=bias,
      out_bias=out_bias,
      norm=key_norm,
    ),
  }
  return Decoder(**usual | parts)


def gemma(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  vocab: int | None = None,
  key_heads: int | None = None,
  head_width: int | None = None,
  ffn_width: int | None = None,
  window: int | None = None,
  norm_after: bool = False,
  cap: float | None = None,
  out_cap: float | None = None,
  scale: float | None = None,
  bias: bool = False,
  epsilon: float = 1e-6,
  position: Rope | None = None,
  **parts,
) -> Decoder:
  """Gemma (2024), and Gemma 2 where all layers look alike.

  Gemma 2 has norms after each part, too (`norm_after`), logits of attention
  and of tokens with a soft `cap` and `out_cap`, and their `scale`.
  """
  usual = {
    'embed': Embedding(width, vocab, out_bias=False, out_cap=out_cap),
    'stack': Stack(
      depth,
      num_heads,
      head_width,
      ffn_width,
      pre_norm=True,
      norm_after=norm_after,
      final_norm=True,
      norm=RMSNorm(epsilon, zero_centred=True),
      ffn=Geglu(exact=False),
    ),
    'position': position or Rope(),
    'pattern': Causal() if window is None else Window(window - 1),
    'memory': XLCache(context if window is None else min(context, window)),
    'heads': Heads(
      keys=None if key_heads == num_heads else key_heads,
      cap=cap,
      bias=bias,
      out_bias=bias,
      scale=scale,
    ),
  }
  return Decoder(**usual | parts)


def gpt_neox(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  vocab: int | None = None,
  ffn_width: int | None = None,
  parallel: bool = True,
  epsilon: float = 1e-5,
  exact: bool = True,
  tie_weights: bool = False,
  position: Rope | None = None,
  **parts,
) -> Decoder:
  """GPT-NeoX, Pythia (Black et al. 2022): a quarter of each head rotates.

  `parallel`: attention and feed-forward part read the same.
  """
  usual = {
    'embed': _embedding(width, vocab, tie_weights=tie_weights),
    'stack': Stack(
      depth,
      num_heads,
      ffn_width=ffn_width,
      pre_norm=True,
      final_norm=True,
      parallel=parallel,
      norm=LayerNorm(epsilon),
      ffn=Gelu(exact=exact),
    ),
    'position': position or Rope(share=0.25),
    'pattern': Causal(),
    'memory': XLCache(context),
    'heads': Heads(bias=True, out_bias=True),
  }
  return Decoder(**usual | parts)


def bloom(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  vocab: int | None = None,
  epsilon: float = 1e-5,
  tie_weights: bool = True,
  **parts,
) -> Decoder:
  """Bloom (Scao et al. 2022): ALiBi, and a norm of the embedded tokens."""
  norm = LayerNorm(epsilon)
  usual = {
    'embed': _embedding(width, vocab, norm=norm, tie_weights=tie_weights),
    'stack': Stack(
      depth,
      num_heads,
      pre_norm=True,
      final_norm=True,
      norm=norm,
      ffn=Gelu(exact=False),
    ),
    'position': Alibi(),
    'pattern': Causal(),
    'memory': XLCache(context),
    'heads': Heads(bias=True, out_bias=True),
  }
  return Decoder(**usual | parts)


def _embedding(width: int, vocab: int | None, **fields) -> Embedding:
  return Embedding(width, vocab, scaled=False, out_bias=False, **fields)

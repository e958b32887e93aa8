"""Published encoders, which read a text both ways in one window.

`context` is how many tokens have a position. `parts` as for decoders; a task
says what is asked: task=MaskedWords() of words that are hidden, TextLabels(2),
TokenLabels(9) or Spans() of what was fine-tuned, States() of the states.
"""

from lctx.layers.ffn import Gelu
from lctx.layers.norm import LayerNorm
from lctx.memory import GlobalAttention, Memory
from lctx.models.heads import Heads
from lctx.models.parts import Stack
from lctx.models.tasks import MaskedWords
from lctx.models.text import Encoder
from lctx.models.vocabulary import Embedding
from lctx.patterns import BlockSparse, Everything, LayerPatterns, Window
from lctx.positions import Learned
from lctx.presets.chosen import with_parts

EPSILON = 1e-12


def bert(
  depth: int, width: int, num_heads: int, context: int, **parts
) -> Encoder:
  """BERT (Devlin et al. 2019)."""
  norm = LayerNorm(EPSILON)
  usual = {
    'embed': Embedding(width, scaled=False, norm=norm, types=2),
    'stack': Stack(depth, num_heads, norm=norm, ffn=Gelu()),
    'position': Learned(context),
    'pattern': Everything(),
    'memory': Memory(),
    'heads': Heads(bias=True, out_bias=True),
    'task': MaskedWords(norm=norm),
  }
  return Encoder(**with_parts(usual, parts))


def roberta(
  depth: int, width: int, num_heads: int, context: int, **parts
) -> Encoder:
  """RoBERTa (Liu et al. 2019): BERT without a second type of tokens.

  The first two positions of its table are no token's.
  """
  norm = LayerNorm(1e-5)
  usual = {
    'embed': {'types': 1, 'norm': norm},
    'stack': {'norm': norm},
    'position': Learned(context + 2, first=2),
    'task': MaskedWords(norm=norm),
  }
  return bert(depth, width, num_heads, context, **with_parts(usual, parts))


def longformer(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  window: int | tuple[int, ...] = 256,
  most: int = 64,
  **parts,
) -> Encoder:
  """Longformer (Beltagy et al. 2020): RoBERTa in a window.

  `window` is counted on each side, one for all layers or one each: half of
  what Hugging Face calls `attention_window`, and what AllenAI does. At most
  `most` tokens of a text are global.
  """
  usual = {
    'pattern': windows(window),
    'memory': GlobalAttention(most),
  }
  return roberta(depth, width, num_heads, context, **with_parts(usual, parts))


def bigbird(
  depth: int,
  width: int,
  num_heads: int,
  context: int,
  *,
  block: int = 64,
  random: int = 3,
  **parts,
) -> Encoder:
  """BigBird (Zaheer et al. 2020), whose random blocks are drawn once.

  For each head, and as many blocks as a segment has. `pattern={'heads': 1,
  'seed': None}` draws none: the pattern of published models, as their library
  reads when it does not train (`lctx.interop.big_bird`).
  """
  pattern = BlockSparse(block=block, random=random, heads=num_heads)
  gelu = Gelu(exact=False)
  usual = {
    'pattern': pattern,
    'stack': {'ffn': gelu},
    'task': MaskedWords(bent=gelu),
  }
  return bert(depth, width, num_heads, context, **with_parts(usual, parts))


def windows(each: int | tuple[int, ...]):
  """A pattern that sees as far ahead as behind, in each layer."""
  if isinstance(each, int):
    return Window(each, each)
  found = tuple(Window(side, side) for side in each)
  return found[0] if len({*found}) == 1 else LayerPatterns(found)

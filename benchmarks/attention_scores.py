"""The scores that attention is timed with, as models make them.

Each asks `param(name, shape, axes)` for what is learned, so that gradients
reach that and nothing else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lctx.positions import Alibi, Rope, Score, Sizes, T5Bias
from lctx.positions.cap import SoftCap
from lctx.positions.relative import Relative
from lctx.positions.span import AdaptiveSpan
from lctx.types import Array


def no_score(param, sizes):
  return ()


def relative_xl(param, sizes):
  """Transformer-XL's, from relative keys on: their projection is no score."""
  heads = sizes.num_heads, sizes.head_width
  r_PNH = param('r', (sizes.distances, *heads)).astype(sizes.dtype)
  u_NH, v_NH = param('u', heads), param('w', heads)
  return (Relative(r_PNH, u_NH, v_NH, None, sizes.head_width**-0.5),)


def alibi(param, sizes):
  return (Alibi().score(param, None, sizes),)


def t5(param, sizes):
  return (T5Bias().score(param, None, sizes),)


def rope(param, sizes):
  return (Rope().score(param, None, sizes),)


def soft_cap(param, sizes):
  return (SoftCap(50.0),)


def adaptive_span(param, sizes):
  return (AdaptiveSpan(longest=sizes.distances).score(param, sizes),)


SCORES: dict[str, Callable[[Callable, Sizes], tuple[Score, ...]]] = {
  'none': no_score,
  'xl': relative_xl,
  'alibi': alibi,
  't5': t5,
  'rope': rope,
  'cap': soft_cap,
  'span': adaptive_span,
}


def drawn(name: str, sizes: Sizes, key: Array) -> dict[str, Array]:
  """What a score learns: random numbers from 0 to 1."""
  found = {}

  def param(name, shape, *_):
    of_name = jax.random.fold_in(key, len(found))
    found[name] = jax.random.uniform(of_name, shape, jnp.float32)
    return found[name]

  SCORES[name](param, sizes)
  return found

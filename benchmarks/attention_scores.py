"""The scores that attention is timed with, as models make them.

Each asks `param(name, shape, axes)` for what is learned, so that gradients
reach that and nothing else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from lctx.positions import Alibi, Rope, Score, Sizes, T5Bias
from lctx.positions.cap import SoftCap
from lctx.positions.relative import Relative, with_bias
from lctx.positions.sinusoid import sinusoid
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


@struct.dataclass
class Angles(Score):
  """Transformer-XL's term as part of a dot product: rotation does it all.

  With w . sinusoid(i - j) = a . sin + b . cos of (i - j) f, by the angles' sums
  that is (b sin i f - a cos i f) . sin j f + (a sin i f + b cos i f) . cos j f.
  So heads are as much wider as the model is wide, clamped distances and learned
  tables have no such sum, and nor has a dropped sinusoid.
  """

  kernel_DNH: Array
  u_NH: Array
  v_NH: Array
  scale: float = struct.field(pytree_node=False)

  def rotate(self, q_BTNH, k_BSKH, q_at, k_at):
    asked_BTNH = with_bias(q_BTNH, self.v_NH, self.scale)
    kernel_DNH = self.kernel_DNH.astype(q_BTNH.dtype)
    w_BTND = jnp.einsum('btnh,dnh->btnd', asked_BTNH, kernel_DNH)
    a, b = jnp.split(w_BTND.astype(jnp.float32), 2, axis=-1)
    width = w_BTND.shape[-1]
    waves_BT1D = sinusoid(q_at.position, width)[:, :, None]
    sin, cos = jnp.split(waves_BT1D, 2, axis=-1)
    waves_BS1D = sinusoid(k_at.position, width)[:, :, None]
    waves_BSKD = jnp.broadcast_to(waves_BS1D, (*k_BSKH.shape[:3], width))
    q_BTNH = with_bias(q_BTNH, self.u_NH, self.scale)
    return (
      _wider(q_BTNH, b * sin - a * cos, a * sin + b * cos),
      _wider(k_BSKH, waves_BSKD),
    )


def _wider(x: Array, *more: Array) -> Array:
  more = [y.astype(x.dtype) for y in more]
  return jnp.concatenate([x, *more], axis=-1)


def xl_by_angles(param, sizes):
  heads = sizes.num_heads, sizes.head_width
  kernel_DNH = param('relative', (sizes.width, *heads)) / sizes.width**0.5
  scale = sizes.head_width**-0.5
  return (Angles(kernel_DNH, param('u', heads), param('w', heads), scale),)


SCORES: dict[str, Callable[[Callable, Sizes], tuple[Score, ...]]] = {
  'none': no_score,
  'xl': relative_xl,
  'xl-angles': xl_by_angles,
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

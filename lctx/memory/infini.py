"""Infini-attention: all segments before this one in a matrix for each head.

Munkhdalai et al. 2024, section 2.1. The matrix is read before it is written,
by queries and keys that no position has rotated, and holds float32 numbers.
"""

import dataclasses

import jax.numpy as jnp

from lctx.layers.parameters import within
from lctx.memory.affine import Affine, Update, counted, product, safe_ratio
from lctx.memory.gates import HeadGate, MemoryGate
from lctx.memory.held import Held, nowhere, place
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Infini(Affine):
  """M += f(K)^T V and z += the sum of f(K), with f(x) = elu(x) + 1.

  Queries recall f(Q) M / f(Q) z: of all values before, the mean weighted by
  f(q) . f(k). `gate` joins that to what attention sees; a memory that holds
  nothing yet changes nothing. `delta`: of each value only what the matrix does
  not recall by its key already is added.
  """

  delta: bool = False
  gate: MemoryGate = dataclasses.field(default_factory=HeadGate)

  def flops(self, sizes, segment):
    heads = sizes.num_heads + sizes.key_heads * (1 + self.delta)
    return 2.0 * heads * sizes.head_width**2

  def initial(self, batch, sizes, dtype):
    heads, width = sizes.key_heads, sizes.head_width
    matrix = jnp.zeros((batch, heads, width, width), jnp.float32)
    return Held((matrix, matrix[..., 0]), nowhere(batch))

  def mix(self, param, carry, y, layer):
    q_BTNH = layer.near.q.astype(jnp.float32)
    q_BTNH /= layer.sizes.scale  # as it was before it was scaled
    recalled_BTNH = recalled(*carry.states, features(q_BTNH))
    live_BT11 = carry.of_same(layer.tokens.at)[:, :, None, None]
    joined_BTNH = self.gate(within(param, 'gate'), y, recalled_BTNH)
    return jnp.where(live_BT11, joined_BTNH, y), carry

  def write(self, param, carry, segment, layer):
    text = segment.text
    update = self.summarise(param, text, carry, layer)
    states = update.of(carry.states, carry.at.document[:, -1])
    return Held(states, place(text.at, carry.at)), jnp.zeros((), jnp.float32)

  def summarise(self, param, text, before, layer):
    """Linear, of the stretch alone; the delta rule also asks for z before it.

    z is a sum of f(K), which all stretches can have at once. The delta rule of
    a longer stretch is another one: a stretch is a segment.
    """
    of_last_BT, whole_B, document_B = counted(text.at.document)
    k_BSKH = features(text.k[..., : text.v.shape[-1]].astype(jnp.float32))
    k_BSKH = jnp.where(of_last_BT[:, :, None, None], k_BSKH, 0.0)
    v_BSKH, keep = text.v.astype(jnp.float32), None
    if self.delta:
      _, z_BKH = before.states
      seen_BSK = product('bskh,bkh->bsk', k_BSKH, z_BKH)[..., None]
      asked_BSKH = safe_ratio(k_BSKH, seen_BSK)
      told_BKHG = product('bskh,bskg->bkhg', k_BSKH, asked_BSKH)
      keep = jnp.eye(k_BSKH.shape[-1])[None, None] - told_BKHG
    matrix = product('bskh,bskg->bkhg', k_BSKH, v_BSKH)
    return Update(
      (keep, None), (matrix, k_BSKH.sum(axis=1)), whole_B, document_B
    )


def features(x: Array) -> Array:
  """elu(x) + 1, which is above 0, to the last digit where x is far below."""
  return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))


def recalled(matrix: Array, z_BKH: Array, q_BTNH: Array) -> Array:
  """q M / q z, each key head for its share of the queries': [B, T, N, H]."""
  batch, length, heads, width = q_BTNH.shape
  keys = z_BKH.shape[1]
  q_BTKGH = q_BTNH.reshape(batch, length, keys, heads // keys, width)
  sums = product('btkgh,bkhv->btkgv', q_BTKGH, matrix)
  weights = product('btkgh,bkh->btkg', q_BTKGH, z_BKH)[..., None]
  return safe_ratio(sums, weights).reshape(q_BTNH.shape)

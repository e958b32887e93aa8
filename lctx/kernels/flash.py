"""Fused attention: what its back ends share.

One softmax serves several sets of keys, and a kernel sees one set: forward by
the log-sum-exp of each, and backward set by set with what all share (Dao et al.
2022).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lctx.kernels.flash_inputs import Inputs, check, laid_out
from lctx.kernels.flash_tiles import Operands, Upstream, Walk
from lctx.kernels.tiles import finite
from lctx.types import Array


@dataclasses.dataclass(frozen=True)
class Flash:
  """Attention over one set of keys by tiles of `queries` x `keys`.

  `visible(q_at, k_at, head, *look_ups)` makes the mask of a tile, bool [T, S],
  of int32 [T, 1] and [1, S] and a `LookUp` in each of the head's tables; that a
  key is of the same document and not empty is seen to besides. `first` and
  `end`, if given, say for each block of queries which blocks of keys it meets:
  from `first` to `end` - 1; the rest is not computed.
  """

  visible: Callable[..., Array]
  queries: int
  keys: int
  rate: float = 0.0  # of dropout
  first: tuple[int, ...] | None = None
  end: tuple[int, ...] | None = None
  interpret: Any = False

  def __post_init__(self):
    misfit = self.misfit(self.queries, self.keys, bool(self.interpret))
    assert misfit is None, misfit

  @classmethod
  def misfit(cls, queries: int, keys: int, interpret: bool) -> str | None:
    """Why tiles of these sides cannot be; None = they can."""
    raise NotImplementedError

  @classmethod
  def hindrance(cls, inputs: Sequence[Inputs]) -> str | None:
    """Why these inputs cannot be; None = they can."""
    return None

  def widened(self, x: Inputs) -> Inputs:
    """With heads as wide as the kernels need them."""
    return x

  def operands(self, x: Inputs) -> Operands:
    """What its kernels read."""
    check(self, x)
    return laid_out(self, self.widened(x))

  def forward(self, x: Operands) -> tuple[Array, Array]:
    """y [B, N, T, H], and the log of each row's sum, float32 [B, N, 1, T].

    Of a row that sees nothing that is `MASKED`.
    """
    raise NotImplementedError

  def backward(self, x: Operands, up: Upstream) -> Operands:
    """Gradients; None for what has none."""
    raise NotImplementedError

  def __call__(self, inputs: Inputs) -> Array:
    """[B, T, N, Hv]: softmax over the keys, times values; zeros for none."""
    y_BNTH = merged((self,), (self.operands(inputs),))
    y_BTNH = jnp.moveaxis(y_BNTH, 1, 2)
    return y_BTNH[:, : inputs.q.shape[1], :, : inputs.v.shape[3]]

  def walk(self, x: Operands) -> Walk:
    """The blocks of keys that each block of queries meets."""
    blocks = x.q.shape[2] // self.queries
    all_keys = x.k.shape[2] // self.keys
    first = (0,) * blocks if self.first is None else self.first
    end = (all_keys,) * blocks if self.end is None else self.end
    assert len(first) == len(end) == blocks and max(end) <= all_keys
    return Walk(np.array(first, np.int32), np.array(end, np.int32))


def side(name: str, length: int) -> str:
  """How a message about a tile begins."""
  return f'model.compute.kernel.{name} = {length} is the side of a tile'


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def merged(sets: tuple, xs: tuple) -> Array:
  """One softmax over several sets of keys: y [B, N, T, H].

  A set has `forward` and `backward` of what it reads, as a `Flash` has.
  """
  return _merged_and_save(sets, xs)[0]


def _merged_and_save(sets, xs):
  parts = [one.forward(x) for one, x in zip(sets, xs, strict=True)]
  y_BNTH, lse_BN1T = _weighed(*zip(*parts))
  return y_BNTH, (xs, y_BNTH, finite(lse_BN1T))


def _weighed(ys_BNTH, lses_BN1T):
  if len(ys_BNTH) == 1:
    return ys_BNTH[0], lses_BN1T[0]
  lse_BN1T = jax.nn.logsumexp(jnp.stack(lses_BN1T), axis=0)
  shares_BNT1 = (jnp.exp(lse - lse_BN1T).mT for lse in lses_BN1T)
  y_BNTH = sum(y * share for y, share in zip(ys_BNTH, shares_BNT1))
  return y_BNTH.astype(ys_BNTH[0].dtype), lse_BN1T


def _merged_backward(sets, saved, dy_BNTH):
  xs, y_BNTH, lse_BN1T = saved
  wide = (a.astype(jnp.float32) for a in (dy_BNTH, y_BNTH))
  delta_BN1T = jnp.einsum('bnth,bnth->bnt', *wide)[:, :, None]
  up = Upstream(dy_BNTH, lse_BN1T, delta_BN1T)
  pairs = zip(sets, xs, strict=True)
  return (tuple(one.backward(x, up) for one, x in pairs),)


merged.defvjp(_merged_and_save, _merged_backward)

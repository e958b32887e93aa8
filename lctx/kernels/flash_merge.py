"""One softmax over several sets of keys, of kernels that see one set each.

Weights are parts of one softmax: forward by the log-sum-exp of each set, and
backward set by set, with what all share (Dao et al. 2022).
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from lctx.kernels.flash_tiles import Operands, Upstream
from lctx.types import MASKED, Array


class Flash(Protocol):
  """Attention over one set of keys, the same queries in all."""

  queries: int

  def forward(self, x: Operands) -> tuple[Array, Array]:
    """y [B, N, T, H], and the log of each row's sum, float32 [B, N, 1, T].

    Of a row that sees nothing that is `MASKED`.
    """

  def backward(self, x: Operands, up: Upstream) -> Operands:
    """Gradients; None for what has none."""


def merged(flashes: Sequence[Flash], xs: Sequence[Operands]) -> Array:
  """y [B, N, T, H]."""
  assert len({flash.queries for flash in flashes}) == 1
  return _attend(tuple(flashes), tuple(xs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(flashes, xs):
  return _attend_and_save(flashes, xs)[0]


def _attend_and_save(flashes, xs):
  parts = [flash.forward(x) for flash, x in zip(flashes, xs, strict=True)]
  y_BNTH, lse_BN1T = _weighed(*zip(*parts))
  lse_BN1T = jnp.where(lse_BN1T <= MASKED / 2, 0, lse_BN1T)
  return y_BNTH, (xs, y_BNTH, lse_BN1T)


def _weighed(ys_BNTH, lses_BN1T):
  if len(ys_BNTH) == 1:
    return ys_BNTH[0], lses_BN1T[0]
  lse_BN1T = jax.nn.logsumexp(jnp.stack(lses_BN1T), axis=0)
  shares_BNT1 = (jnp.exp(lse - lse_BN1T).mT for lse in lses_BN1T)
  y_BNTH = sum(y * share for y, share in zip(ys_BNTH, shares_BNT1))
  return y_BNTH.astype(ys_BNTH[0].dtype), lse_BN1T


def _attend_backward(flashes, saved, dy_BNTH):
  xs, y_BNTH, lse_BN1T = saved
  wide = (a.astype(jnp.float32) for a in (dy_BNTH, y_BNTH))
  delta_BN1T = jnp.einsum('bnth,bnth->bnt', *wide)[:, :, None]
  up = Upstream(dy_BNTH, lse_BN1T, delta_BN1T)
  pairs = zip(flashes, xs, strict=True)
  return (tuple(flash.backward(x, up) for flash, x in pairs),)


_attend.defvjp(_attend_and_save, _attend_backward)

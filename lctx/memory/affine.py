"""Memories that a stretch of text changes by an affine map.

What a stretch does can be had of it alone, and what two stretches do one after
the other is again such a change. So a sequence may be folded in any grouping:
in parallel, or each part on another device.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lctx.memory.base import Layer, Memory
from lctx.memory.held import Segment, where
from lctx.types import EMPTY, Array, Carry

# All digits of float32: TPUs and GPUs would round both factors, and the error
# would stay in the states.
product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@struct.dataclass
class Update:
  """States S become keep S + add; `keep` None is 1.

  `keep` and `add` are tuples of arrays, one a state [B, N, H, ...]: a matrix
  [B, N, H, H] or a number for each head [B, N] is what `keep` multiplies by.
  States of another document than the stretch count as zeros.
  """

  keep: tuple[Array | None, ...]
  add: tuple[Array, ...]
  whole: Array  # bool [B]: no document begins in the stretch after another
  document: Array  # int32 [B]: of its last token; EMPTY = it has none

  def of(self, states: tuple[Array, ...], document_B) -> tuple[Array, ...]:
    """The states [B, N, H, ...] after the stretch, given those before it.

    These are of a document.
    """
    goes_on_B = self.whole & (document_B == self.document)
    return tuple(
      where(
        self.document == EMPTY,
        state,
        add + where(goes_on_B, times(keep, state), jnp.zeros_like(state)),
      )
      for keep, add, state in zip(self.keep, self.add, states)
    )

  def last(self, document_B: Array) -> Array:
    """The document of the states after the stretch, given that before it."""
    return jnp.where(self.document == EMPTY, document_B, self.document)


def combine(first: Update, second: Update) -> Update:
  """What both do, one after the other. It is associative."""
  goes_on_B = second.whole & (first.document == second.document)
  nothing_B = second.document == EMPTY
  only_B = first.document == EMPTY

  def chosen(first, second, both):
    return where(nothing_B, first, where(only_B, second, both))

  keep, add = [], []
  for old, new, was, comes in zip(
    first.keep, second.keep, first.add, second.add
  ):
    told = where(goes_on_B, times(new, was), jnp.zeros_like(was))
    add.append(chosen(was, comes, told + comes))
    keep.append(None if new is None else chosen(old, new, times(new, old)))
  return Update(
    tuple(keep),
    tuple(add),
    chosen(first.whole, second.whole, first.whole & goes_on_B),
    jnp.where(nothing_B, first.document, second.document),
  )


class Affine(Memory):
  """A memory whose states change by the update of what was read."""

  def summarise(
    self, param: Callable, text: Segment, before: Carry, layer: Layer
  ) -> Update:
    """What a stretch of text alone does to the states.

    Of `before`, what the layer holds where the stretch begins, it may use all
    but what no parallel sum can give: the matrices.
    """
    raise NotImplementedError


def counted(document_BT: Array) -> tuple[Array, Array, Array]:
  """Of a stretch: tokens of its last document [B, T], whole and document [B].

  As `Update` has the last two.
  """
  held_BT = document_BT >= 0
  document_B = document_BT.max(axis=1, initial=EMPTY)  # they count up
  of_last_BT = held_BT & (document_BT == document_B[:, None])
  return of_last_BT, (of_last_BT == held_BT).all(axis=1), document_B


def times(keep: Array | None, x: Any) -> Any:
  """`keep` x, for x [B, N, H, ...] or another `keep`."""
  if keep is None:
    return x
  if keep.ndim == 2:
    return keep.reshape(*keep.shape, *(1,) * (x.ndim - 2)) * x
  return product('bnhg,bngv->bnhv', keep, x)


def safe_ratio(x: Array, by: Array) -> Array:
  """x / by; 0 where both are 0, NaN where `by` overflowed."""
  ratio = x / jnp.where(by == 0, 1.0, by)
  return jnp.where(jnp.isinf(by), jnp.nan, ratio)

"""The three products of attention, and the order their gradients are made in.

Left to themselves, gradients of keys, values and relative keys first transpose
the largest arrays there are, [T, S]. Here those are always the right operand,
contracted over queries as they lie. It saves time on a CPU, and nothing else
changes.

Heads come first: what all rows share, such as relative keys, then meets the
queries of all rows in one product a head.
"""

import jax
import jax.numpy as jnp

from lctx.types import Array


@jax.custom_vjp
def met(q_BTNH: Array, k_BSNH: Array) -> Array:
  """Queries times keys: float32 [N, B, T, S]."""
  return _wide('btnh,bsnh->nbts', q_BTNH, k_BSNH)


@jax.custom_vjp
def met_by_all(q_BTNH: Array, r_PNH: Array) -> Array:
  """Queries times what all rows share: float32 [N, B, T, P]."""
  return _wide('btnh,pnh->nbtp', q_BTNH, r_PNH)


@jax.custom_vjp
def weighed(p_NBTS: Array, v_BSNH: Array) -> Array:
  """Weights times values: float32 [N, B, T, H]."""
  return _wide('nbts,bsnh->nbth', p_NBTS, v_BSNH)


def keys_gradient(q_BTNH: Array, ds_NBTS: Array) -> Array:
  """Summed over the queries of each row: float32 [B, S, N, H]."""
  numbers = ((1,), (2,)), ((2, 0), (0, 1))
  dk_NBHS = _in_order(q_BTNH, ds_NBTS, numbers)
  return jnp.transpose(dk_NBHS, (1, 3, 0, 2))


def _shared_gradient(q_BTNH: Array, ds_NBTP: Array) -> Array:
  numbers = ((0, 1), (1, 2)), ((2,), (0,))
  dr_NHP = _in_order(q_BTNH, ds_NBTP, numbers)
  return jnp.transpose(dr_NHP, (2, 0, 1))


def _backward(letters, right_gradient):
  """Of queries times something: `letters` give what reaches the queries."""

  def backward(saved, ds):
    q_BTNH, right = saved
    ds = ds.astype(q_BTNH.dtype)
    dq_BTNH = jnp.moveaxis(_wide(letters, ds, right), 0, 2)
    dright = right_gradient(q_BTNH, ds)
    return dq_BTNH.astype(q_BTNH.dtype), dright.astype(right.dtype)

  return backward


def _weighed_backward(saved, dy_NBTH):
  p_NBTS, v_BSNH = saved
  dy_NBTH = dy_NBTH.astype(v_BSNH.dtype)
  dp_NBTS = _wide('nbth,bsnh->nbts', dy_NBTH, v_BSNH)
  dv_NBHS = _in_order(dy_NBTH, p_NBTS, (((2,), (2,)), ((0, 1), (0, 1))))
  dv_BSNH = jnp.transpose(dv_NBHS, (1, 3, 0, 2))
  return dp_NBTS.astype(p_NBTS.dtype), dv_BSNH.astype(v_BSNH.dtype)


def _wide(letters, *arrays):
  return jnp.einsum(letters, *arrays, preferred_element_type=jnp.float32)


def _in_order(left, right, numbers):
  return jax.lax.dot_general(
    left, right, numbers, preferred_element_type=jnp.float32
  )


def _saved(product):
  return lambda *arrays: (product(*arrays), arrays)


met.defvjp(_saved(met), _backward('nbts,bsnh->nbth', keys_gradient))
met_by_all.defvjp(
  _saved(met_by_all), _backward('nbtp,pnh->nbth', _shared_gradient)
)
weighed.defvjp(_saved(weighed), _weighed_backward)

"""The three products of attention, and the order their gradients are made in.

Left to themselves, gradients of keys, values and relative keys first transpose
the largest arrays there are, [T, S]. Here those are always the right operand,
contracted over queries as they lie. It saves time on a CPU, and nothing else
changes.

Heads come first: what all rows share, such as relative keys, then meets the
queries of all rows in one product a head. Keys and values may have fewer heads
than queries (K divides N): then a run of N / K queries shares one.
"""

import jax
import jax.numpy as jnp

from lctx.types import Array


@jax.custom_vjp
def met(q_BTNH: Array, k_BSKH: Array) -> Array:
  """Queries times keys: float32 [N, B, T, S]."""
  return _wide('btnh,bsnh->nbts', q_BTNH, _per_query(k_BSKH, q_BTNH.shape[2]))


@jax.custom_vjp
def met_by_all(q_BTNH: Array, r_PNH: Array) -> Array:
  """Queries times what all rows share: float32 [N, B, T, P]."""
  return _wide('btnh,pnh->nbtp', q_BTNH, r_PNH)


@jax.custom_vjp
def weighed(p_NBTS: Array, v_BSKH: Array) -> Array:
  """Weights times values: float32 [N, B, T, H]."""
  return _wide('nbts,bsnh->nbth', p_NBTS, _per_query(v_BSKH, p_NBTS.shape[0]))


def keys_gradient(q_BTNH: Array, ds_NBTS: Array, key_heads: int) -> Array:
  """Summed over the queries of each row: float32 [B, S, K, H]."""
  numbers = ((1,), (2,)), ((2, 0), (0, 1))
  dk_NBHS = _in_order(q_BTNH, ds_NBTS, numbers)
  return jnp.transpose(_per_key(dk_NBHS, key_heads), (1, 3, 0, 2))


def _shared_gradient(q_BTNH: Array, ds_NBTP: Array, heads: int) -> Array:
  numbers = ((0, 1), (1, 2)), ((2,), (0,))
  dr_NHP = _in_order(q_BTNH, ds_NBTP, numbers)
  return jnp.transpose(dr_NHP, (2, 0, 1))


def _backward(letters, right_gradient):
  """Of queries times something: `letters` give what reaches the queries."""

  def backward(saved, ds):
    q_BTNH, right = saved
    ds = ds.astype(q_BTNH.dtype)
    spread = _per_query(right, q_BTNH.shape[2])
    dq_BTNH = jnp.moveaxis(_wide(letters, ds, spread), 0, 2)
    dright = right_gradient(q_BTNH, ds, right.shape[-2])
    return dq_BTNH.astype(q_BTNH.dtype), dright.astype(right.dtype)

  return backward


def _weighed_backward(saved, dy_NBTH):
  p_NBTS, v_BSKH = saved
  dy_NBTH = dy_NBTH.astype(v_BSKH.dtype)
  spread = _per_query(v_BSKH, p_NBTS.shape[0])
  dp_NBTS = _wide('nbth,bsnh->nbts', dy_NBTH, spread)
  dv_NBHS = _in_order(dy_NBTH, p_NBTS, (((2,), (2,)), ((0, 1), (0, 1))))
  dv_BSKH = jnp.transpose(_per_key(dv_NBHS, v_BSKH.shape[2]), (1, 3, 0, 2))
  return dp_NBTS.astype(p_NBTS.dtype), dv_BSKH.astype(v_BSKH.dtype)


def _per_query(x: Array, heads: int) -> Array:
  """[..., K, H] repeated to one for each head of the queries."""
  return x if x.shape[-2] == heads else jnp.repeat(x, heads // x.shape[-2], -2)


def _per_key(x_N: Array, key_heads: int) -> Array:
  """Summed over the queries' heads that share a key: first axis N to K."""
  if x_N.shape[0] == key_heads:
    return x_N
  return x_N.reshape(key_heads, -1, *x_N.shape[1:]).sum(axis=1)


def _wide(letters, *arrays):
  return jnp.einsum(letters, *arrays, preferred_element_type=_sum_of(*arrays))


def _in_order(left, right, numbers):
  return jax.lax.dot_general(
    left, right, numbers, preferred_element_type=_sum_of(left, right)
  )


def _sum_of(*arrays):
  """The type of sums: float32, or float64 where that is asked for."""
  return jnp.result_type(jnp.float32, *arrays)


def _saved(product):
  return lambda *arrays: (product(*arrays), arrays)


met.defvjp(_saved(met), _backward('nbts,bsnh->nbth', keys_gradient))
met_by_all.defvjp(
  _saved(met_by_all), _backward('nbtp,pnh->nbth', _shared_gradient)
)
weighed.defvjp(_saved(weighed), _weighed_backward)

"""Is it the same? Checksums, and what to say when something differs.

The checksum of an array is taken where its shards lie:

    checksum(x) = sum over elements of mix(bits of the element ^ place)

modulo 2^32, where `mix` is a bijection of 32 bits and `place` a hash of the
element's coordinates in the whole array. A sum does not care who adds what,
so the result is the same under any sharding, and devices exchange one number
each. One changed element changes it for sure; elements that swap places, or
several that change, do so with odds of 2^64 to 1 (there are two such sums).
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

_SEEDS = (0x9E3779B9, 0x7F4A7C15)


@jax.jit
def checksum(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Two uint32 scalars, for any type of element, typed random keys included.

  Two arrays of equal bits but of another type or shape may well have equal
  checksums: compare those first.
  """
  words = _words(x)
  terms = [_mix(words ^ _places(words.shape, seed)) for seed in _SEEDS]
  return jax.lax.reduce(
    tuple(terms),
    (jnp.uint32(0),) * len(terms),
    lambda sums, more: tuple(a + b for a, b in zip(sums, more)),
    tuple(range(words.ndim)),
  )


def named_leaves(tree) -> dict[str, Any]:
  """The leaves of a pytree by name: `params.stack.kernel`."""
  leaves, _ = jax.tree.flatten_with_path(tree)
  named = {
    jax.tree_util.keystr(path, simple=True, separator='.'): leaf
    for path, leaf in leaves
  }
  assert len(named) == len(leaves), 'two leaves of one name'
  return named


def table(state) -> dict[str, dict]:
  """Type, shape and checksum of each leaf, as JSON can hold them."""
  leaves = jax.block_until_ready(named_leaves(state))
  # One at a time: CPU devices lock up when collectives of several overtake.
  sums = {name: jax.device_get(checksum(x)) for name, x in leaves.items()}
  return {
    name: _form(x) | {'checksum': [int(part) for part in sums[name]]}
    for name, x in leaves.items()
  }


def check_fit(saved: dict[str, dict], wanted, where) -> None:
  """Raises if a saved `table` has other leaves than the pytree `wanted`.

  Fields of a state that `wanted` has nothing of are not compared.
  """
  forms = {name: _form(x) for name, x in named_leaves(wanted).items()}
  need = {n: f'{r["dtype"]} {r["shape"]}' for n, r in forms.items()}
  have = {n: f'{r["dtype"]} {r["shape"]}' for n, r in saved.items()}
  fields = {name.partition('.')[0] for name in need}
  have = {n: form for n, form in have.items() if n.partition('.')[0] in fields}
  if differ := _differences(have, need, 'nothing'):
    raise ValueError(
      f'Checkpoint {where} holds other arrays than this run needs: {differ}. '
      'Give back the model, optimizer and data settings it was saved with, or '
      'start in a new workdir.'
    )


def sealed(body: dict) -> dict:
  """As JSON gives it back, with its hash."""
  body = json.loads(json.dumps(body))
  return body | {'hash': _hash(body)}


def unsealed(body: dict) -> bool:
  """Takes the hash out again; whether it was that of the rest."""
  return body.pop('hash', None) == _hash(body)


def compare(saved: dict, wanted: dict) -> None:
  """Raises if two fingerprints differ, naming each field and both values.

  Fingerprints are JSON: dicts, maybe nested, of what two runs must share to
  use one checkpoint.
  """
  saved, wanted = (_flat(json.loads(json.dumps(x))) for x in (saved, wanted))
  if differ := _differences(saved, wanted, 'absent'):
    raise ValueError(
      f'The checkpoint in this workdir is of another run: {differ}. Give back '
      'the saved values to go on with it, or start in a new workdir.'
    )


def _hash(body: dict) -> str:
  text = json.dumps(body, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _differences(saved: dict, wanted: dict, absent: str) -> str:
  names = [
    name
    for name in sorted({*saved, *wanted})
    if saved.get(name, absent) != wanted.get(name, absent)
  ]
  parts = [
    f'{name} is {saved.get(name, absent)} there and '
    f'{wanted.get(name, absent)} here'
    for name in names[:8]
  ]
  more = [f'and {len(names) - 8} more'] if len(names) > 8 else []
  return '; '.join(parts + more)


def _flat(tree: dict, prefix: str = '') -> dict[str, Any]:
  """Nested dicts as one, its names joined by dots."""
  flat = {}
  for name, value in tree.items():
    nested = isinstance(value, dict)
    flat |= (
      _flat(value, f'{prefix}{name}.') if nested else {prefix + name: value}
    )
  return flat


def _form(leaf) -> dict:
  return {'dtype': str(leaf.dtype), 'shape': list(leaf.shape)}


def _words(x: jax.Array) -> jax.Array:
  """The bits of `x` as uint32; types of 64 bits gain a last axis of two."""
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == jnp.bool_:
    return x.astype(jnp.uint32)
  exact = jnp.issubdtype(x.dtype, jnp.integer)
  bits = (jnp.iinfo if exact else jnp.finfo)(x.dtype).bits
  if bits >= 32:
    return jax.lax.bitcast_convert_type(x, jnp.uint32)
  return jax.lax.bitcast_convert_type(x, f'uint{bits}').astype(jnp.uint32)


def _places(shape: tuple[int, ...], seed: int) -> jax.Array:
  """A hash of the coordinates of every element.

  Axis by axis, as a linear index does not fit 32 bits in large arrays.
  """
  place = jnp.full((1,) * len(shape), seed, jnp.uint32)
  for axis, size in enumerate(shape):
    line = [1] * len(shape)
    line[axis] = size
    place = _mix(place ^ jax.lax.broadcasted_iota(jnp.uint32, line, axis))
  return place


def _mix(x: jax.Array) -> jax.Array:
  """The last steps of MurmurHash3 (Appleby 2011), a bijection of uint32."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)

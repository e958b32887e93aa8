import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lctx.checksum import checksum

TYPES = (
  *('float32', 'bfloat16', 'float16', 'float8_e4m3fn'),
  *('int32', 'uint32', 'int16', 'int8', 'uint8', 'bool'),
)


def sums(x):
  return tuple(int(part) for part in checksum(x))


def sharded(x, *spec):
  mesh = jax.make_mesh((4, 2), ('data', 'fsdp'), (AxisType.Auto,) * 2)
  return jax.device_put(x, NamedSharding(mesh, P(*spec)))


def random_bits(dtype, shape):
  width = np.dtype(dtype).itemsize
  raw = np.random.default_rng(0).bytes(width * int(np.prod(shape)))
  if dtype == 'bool':
    return np.frombuffer(raw, np.uint8).reshape(shape) % 2 == 1
  return np.frombuffer(raw, jnp.dtype(dtype)).reshape(shape)


def slow_checksum(x):
  """The definition, one element after the other, in Python's integers."""

  def mix(n):
    n = (n ^ (n >> 16)) * 0x85EBCA6B % 2**32
    n = (n ^ (n >> 13)) * 0xC2B2AE35 % 2**32
    return n ^ (n >> 16)

  total = [0, 0]
  for i, seed in enumerate((0x9E3779B9, 0x7F4A7C15)):
    for index in np.ndindex(x.shape):
      place = seed
      for coordinate in index:
        place = mix(place ^ coordinate)
      word = int.from_bytes(x[index].tobytes(), 'little')
      total[i] += mix(word ^ place)
  return tuple(t % 2**32 for t in total)


@pytest.mark.parametrize('dtype', TYPES)
def test_it_is_its_definition_for_every_type(dtype):
  for shape in ((), (1,), (3, 5), (2, 0)):
    x = random_bits(dtype, shape)
    assert sums(jnp.asarray(x)) == slow_checksum(x)


def test_typed_keys_and_64_bits_have_one_too():
  keys = jax.random.split(jax.random.key(0), 8)
  data = np.asarray(jax.random.key_data(keys))
  assert sums(keys) == sums(sharded(keys, 'data')) == slow_checksum(data)
  with jax.enable_x64(True):
    for dtype in ('int64', 'float64'):
      x = random_bits(dtype, (6,))
      halves = x.view(np.uint32).reshape(6, 2)
      assert sums(jnp.asarray(x)) == slow_checksum(halves)


def test_it_does_not_see_how_an_array_is_sharded():
  x = jnp.asarray(random_bits('float32', (16, 24, 8)))
  specs = ((), ('data', 'fsdp'), (None, ('fsdp', 'data')), (None, None, 'data'))
  assert {sums(sharded(x, *spec)) for spec in specs} == {sums(x)}


def test_devices_exchange_one_number_each():
  x = sharded(jnp.zeros((64, 64)), 'data', 'fsdp')
  program = checksum.lower(x).compile().as_text()
  pattern = r'= \(?\w+\[([\d,]*)\][^=]* (?:all-|collective-|reduce-scatter)'
  moved = re.findall(pattern, program)
  assert moved, 'eight devices cannot agree in silence'
  for shape in moved:
    assert np.prod([int(n) for n in shape.split(',') if n]) <= 8


@pytest.mark.parametrize('dtype', TYPES)
def test_any_flipped_bit_changes_both_sums(dtype):
  x = random_bits(dtype, (4, 8)).copy()
  before = sums(jnp.asarray(x))
  width = 1 if dtype == 'bool' else 8 * x.dtype.itemsize
  for bit in range(width):
    y = x.copy()
    flat = y.reshape(-1).view(np.uint8)
    flat[x.dtype.itemsize * 17 + bit // 8] ^= 1 << bit % 8
    after = sums(sharded(jnp.asarray(y), 'data', 'fsdp'))
    assert after[0] != before[0] and after[1] != before[1]


def test_elements_that_swap_places_change_it():
  x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
  seen = {sums(jnp.asarray(x))}
  for i in range(1, 60):
    y = x.copy().reshape(-1)
    y[[0, i]] = y[[i, 0]]
    seen.add(sums(jnp.asarray(y.reshape(x.shape))))
  seen.add(sums(jnp.asarray(x[::-1])))
  seen.add(sums(jnp.asarray(x.reshape(4, 3, 5))))
  assert len(seen) == 62

import gc
import json
import logging
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lctx.checkpoint import (
  CheckpointError,
  Checkpoints,
  CheckpointStore,
  compare,
)


@struct.dataclass
class State:
  """What a training run holds: every type of leaf, one without elements."""

  params: dict
  optimizer: tuple
  key: jax.Array
  step: jax.Array
  carry: dict


def make_state(seed=0, size=64):
  noise = jax.random.bits(jax.random.key(seed), (size, 32))  # NaNs among them
  params = {
    'kernel': jax.lax.bitcast_convert_type(noise, jnp.float32),
    'bias': jnp.arange(4, dtype=jnp.bfloat16) + seed,
  }
  return State(
    params=params,
    optimizer=optax.adam(1e-3).init(params),
    key=jax.random.split(jax.random.key(seed), 8),
    step=jnp.int32(seed),
    carry={'open': jnp.ones((8, 2), bool), 'slots': jnp.zeros((8, 0, 4))},
  )


def abstract(state, sharding=None):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def host(x):
  keys = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(x) if keys else x)


def same(a, b):
  """The same tree, types and bits."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    if x.dtype != y.dtype or host(x).tobytes() != host(y).tobytes():
      return False
  return True


def store_in(folder, **settings):
  return CheckpointStore(folder, Checkpoints(**settings))


def fill(folder, steps, **settings):
  """Saves state number s at each step s; returns what the folder holds."""
  with store_in(folder, **settings) as store:
    for step in steps:
      store.save(step, make_state(step), {'step': step})
    store.wait()
    return store.steps


def largest_file(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def flip_a_byte(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_was_saved_comes_back_bit_for_bit(tmp_path):
  state, meta = make_state(3), {'fingerprint': {'rows': 8}, 'names': ['a', 1.5]}
  with store_in(tmp_path) as store:
    assert store.restore(abstract(state)) is None
    store.save(3, state, meta)
    got = store.restore(abstract(state))
  assert same(got.state, state)
  assert (got.step, got.meta) == (3, meta)
  with store_in(tmp_path) as store:
    got = store.restore(abstract(state))
  assert same(got.state, state)
  draw = jax.vmap(jax.random.normal)
  np.testing.assert_array_equal(draw(got.state.key), draw(state.key))


def test_a_part_is_read_and_proved_alone(tmp_path):
  state = make_state(3)
  part = {'params': state.params}
  with store_in(tmp_path) as store:
    store.save(3, state, {})
    assert same(store.restore(abstract(part)).state, part)
    read = store.restore({'optimizer': abstract(state.optimizer)}).state
    assert same(read, {'optimizer': state.optimizer})
    with pytest.raises(ValueError, match=r'params\.bias is .* nothing here'):
      store.restore({'params': {'kernel': state.params['kernel']}})
  flip_a_byte(largest_file(tmp_path))
  with store_in(tmp_path) as store, pytest.raises(CheckpointError):
    store.restore(abstract(part))


def test_a_step_that_is_there_is_left_alone(tmp_path):
  with store_in(tmp_path) as store:
    store.save(1, make_state(1), {})
    store.save(1, make_state(2), {})  # still writing: SIGTERM after a save
    assert same(store.restore(abstract(make_state())).state, make_state(1))
  with store_in(tmp_path) as store:
    store.save(1, make_state(2), {})
    assert same(store.restore(abstract(make_state())).state, make_state(1))


def test_the_next_step_may_overwrite_what_is_being_saved(tmp_path):
  @jax.jit
  def make():
    return [jnp.arange(i, i + (1 << 20), dtype=jnp.float32) for i in range(8)]

  overwrite = jax.jit(lambda xs: [x * 0 - 1 for x in xs], donate_argnums=0)
  state = make()
  with store_in(tmp_path) as store:
    store.save(1, state, {})
    for _ in range(3):
      state = overwrite(state)
    jax.block_until_ready(state)
    store.wait()
    got = store.restore(abstract(state))
  assert same(got.state, make())


def test_a_checkpoint_moves_to_another_mesh(tmp_path):
  def mesh(*sizes):
    axes = (AxisType.Auto,) * 2
    devices = jax.devices()[: sizes[0] * sizes[1]]
    return jax.make_mesh(sizes, ('data', 'fsdp'), axes, devices=devices)

  def spread(mesh, tree):
    def one(x):
      whole = {(64, 32): P('data', 'fsdp'), (8, 2): P(None, 'data')}
      rows = P('fsdp') if x.shape[:1] == (8,) else P()
      return NamedSharding(mesh, whole.get(x.shape, rows))

    return jax.tree.map(one, tree)

  state = make_state(5)
  with store_in(tmp_path) as store:
    wide = mesh(2, 2)
    store.save(5, jax.device_put(state, spread(wide, state)), {})
    for sizes in ((2, 4), (1, 2), (1, 1), (1, 8)):
      shardings = spread(mesh(*sizes), state)
      wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        shardings,
      )
      got = store.restore(wanted).state
      assert same(got, state)
      placed = jax.tree.map(lambda x: x.sharding, got)
      assert jax.tree.leaves(placed) == jax.tree.leaves(shardings)


KILLED = """
import os, signal, sys
import jax, jax.numpy as jnp
from lctx.checkpoint import CheckpointStore, Checkpoints
store = CheckpointStore(sys.argv[1], Checkpoints())
state = {'x': jax.random.bits(jax.random.key(1), (1 << 24,))}
store.save(1, jax.tree.map(lambda x: x[:4], state), {})
store.wait()
store.save(2, state, {})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_while_saving_leaves_the_one_before(tmp_path, caplog):
  child = subprocess.run(
    [sys.executable, '-c', KILLED, str(tmp_path)], cwd=os.getcwd(), timeout=60
  )
  assert child.returncode == -signal.SIGKILL
  half = [p.name for p in tmp_path.iterdir() if p.name.startswith('2.')]
  assert half, 'the child ended its save before it was killed'
  want = {'x': jax.random.bits(jax.random.key(1), (1 << 24,))[:4]}
  with store_in(tmp_path) as store:
    got = store.restore(abstract(want))
    assert got.step == 1 and same(got.state, want)
    assert not caplog.records
    store.save(2, want, {})
    assert store.restore(abstract(want)).step == 2


PROCESS = """
import pathlib, sys
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lctx.checkpoint import CheckpointStore, Checkpoints
folder, address, me = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(address, 2, me)
mesh = jax.make_mesh((4,), ('data',), (AxisType.Auto,))
rows = np.random.default_rng(0).integers(0, 2**32, (1 << 12, 4), np.uint32)
state = {'x': jax.make_array_from_callback(
  rows.shape, NamedSharding(mesh, P('data')), lambda at: rows[at])}
with CheckpointStore(folder, Checkpoints()) as store:
  store.save(1, state, {})
  store.save(2, state, {})
  store.wait()
  if me == 0:
    mine = (folder / '2/state/ocdbt.process_1').rglob('*')
    largest = max(mine, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
  multihost_utils.sync_global_devices('damaged')
  got = store.restore(state)
  assert got.step == 1 and store.steps == [1]
  for shard in got.state['x'].addressable_shards:
    np.testing.assert_array_equal(shard.data, rows[shard.index])
  store.save(2, state, {})
  assert store.restore(state).step == 2
"""


def test_what_one_process_cannot_read_no_process_uses(tmp_path):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  flags = '--xla_force_host_platform_device_count=2'
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', PROCESS, str(tmp_path), address, str(me)],
      env={**os.environ, 'XLA_FLAGS': flags},
      stderr=subprocess.PIPE,
      text=True,
    )
    for me in range(2)
  ]
  try:
    told = [process.communicate(timeout=60)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0, 0], told
  assert 'another process failed' in told[0], told
  assert 'OUT_OF_RANGE' in told[1], told


def test_one_flipped_byte_is_seen_named_and_skipped(tmp_path, caplog):
  fill(tmp_path, [1, 2])
  flip_a_byte(largest_file(tmp_path / '2'))
  with store_in(tmp_path) as store:
    got = store.restore(abstract(make_state()))
  assert got.step == 1 and same(got.state, make_state(1))
  assert str(tmp_path / '2') in caplog.text
  assert 'params.kernel: the checksum differs' in caplog.text


@pytest.mark.parametrize('damage', [truncate, os.unlink, flip_a_byte])
@pytest.mark.parametrize(
  'file', ['data', 'meta/metadata', 'state/manifest.ocdbt']
)
def test_a_damaged_file_costs_that_checkpoint_only(
  tmp_path, file, damage, caplog
):
  fill(tmp_path, [1, 2])
  path = tmp_path / '2' / file
  damage(largest_file(tmp_path / '2') if file == 'data' else path)
  with store_in(tmp_path) as store:
    got = store.restore(abstract(make_state()))
  assert got.step == 1 and same(got.state, make_state(1))
  assert [record.levelno for record in caplog.records] == [logging.WARNING]
  assert f'{tmp_path / "2"} is skipped' in caplog.text


@pytest.mark.parametrize('file', ['state/manifest.ocdbt', 'state/d'])
def test_damage_is_told_in_one_line(tmp_path, file, caplog, capfd):
  state = {f'{i}': jnp.arange(1 << 16) + i for i in range(30)}
  with store_in(tmp_path) as store:
    store.save(1, state, {})
    store.save(2, state, {})
    store.wait()
    (tmp_path / '2' / file).rename(tmp_path / 'lost')
    assert store.restore(abstract(state)).step == 1
  gc.collect()
  time.sleep(0.2)  # reads that were under way when the first one failed
  assert capfd.readouterr() == ('', '')
  assert len(caplog.messages) == 1 and '\n' not in caplog.messages[0]


def test_nothing_whole_is_an_error_and_not_a_fresh_start(tmp_path, caplog):
  fill(tmp_path, [1, 2])
  truncate(largest_file(tmp_path / '1'))
  flip_a_byte(largest_file(tmp_path / '2'))
  with store_in(tmp_path) as store:
    with pytest.raises(CheckpointError, match=r'(?s)step 2: .*; step 1: ') as e:
      store.restore(abstract(make_state()))
    assert '\n' not in str(e.value)
    with pytest.raises(CheckpointError, match=r'step 2: .* checksum'):
      store.restore(abstract(make_state()), step=2)
    with pytest.raises(CheckpointError, match='no checkpoint of step 7'):
      store.restore(abstract(make_state()), step=7)


def test_damaged_steps_make_room_and_crowd_out_none(tmp_path):
  fill(tmp_path, [10, 20])
  flip_a_byte(largest_file(tmp_path / '20'))
  with store_in(tmp_path, keep_last=1) as store:
    assert store.restore(abstract(make_state())).step == 10
    assert store.latest_step == 10
    store.save(15, make_state(15), {})
    store.save(20, make_state(20), {})
    assert store.restore(abstract(make_state())).step == 20
    assert store.steps == [15, 20]
  fill(tmp_path, [30], keep_last=2)
  flip_a_byte(largest_file(tmp_path / '30'))
  with store_in(tmp_path, keep_last=1) as store:
    assert store.restore(abstract(make_state())).step == 20
    store.save(30, make_state(31), {})  # the very step that was damaged
    assert same(store.restore(abstract(make_state())).state, make_state(31))


def test_the_newest_and_the_best_are_kept(tmp_path):
  bits = {1: 5.0, 2: 1.0, 3: 4.0, 4: None, 5: 3.0, 6: float('nan'), 7: 9.0}
  settings = {'keep_last': 2, 'keep_best': 2}
  kept = {}
  for step, value in bits.items():
    metrics = None if value is None else {'bits_per_token': value}
    with store_in(tmp_path, **settings) as store:  # opened anew every time
      store.save(step, make_state(step), {}, metrics)
      store.wait()
      kept[step] = store.steps
      assert store.latest_step == step
      assert store.best_step == (1 if step == 1 else 2)
  assert kept[3] == [2, 3]
  assert kept[4] == [2, 3, 4]
  assert kept[5] == [2, 4, 5]
  assert kept[6] == [2, 5, 6]
  assert kept[7] == [2, 5, 6, 7]
  assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '5', '6', '7']
  with store_in(tmp_path) as store:
    assert store.best_step == 2
    assert same(store.restore(abstract(make_state()), 2).state, make_state(2))


def test_until_it_is_validated_the_newest_replaces_none(tmp_path):
  assert fill(tmp_path, [1, 2, 3], keep_last=1) == [2, 3]
  bits = {'bits_per_token': 1.0}
  with store_in(tmp_path, keep_last=1, keep_best=0) as store:
    store.save(4, make_state(4), {}, bits)
    store.wait()
    assert store.steps == [4]


def test_a_checkpoint_can_be_taken_back(tmp_path):
  fill(tmp_path, [1], keep_last=1)
  with store_in(tmp_path, keep_last=1) as store:
    store.save(2, make_state(2), {}, {'bits_per_token': 1.0})
    store.withdraw(2)
    assert (store.latest_step, store.best_step) == (None, None)
  fill(tmp_path, [1, 2])
  with store_in(tmp_path) as store:
    store.withdraw(2)
    assert store.restore(abstract(make_state())).step == 1


def test_a_best_checkpoint_that_loses_its_rank_is_named(tmp_path, caplog):
  with store_in(tmp_path) as store:
    store.save(1, make_state(1), {}, {'bits_per_token': 1.0})
    store.save(2, make_state(2), {}, {'bits_per_token': 2.0})
  flip_a_byte(tmp_path / '1' / 'meta' / 'metadata')
  with store_in(tmp_path) as store:
    assert store.best_step == 2
  assert f'{tmp_path / "1"} has no rank' in caplog.text
  assert fill(tmp_path, [3, 4, 5]) == [1, 2, 4, 5]  # it is not ours to remove


def test_without_a_metric_nothing_is_best(tmp_path):
  assert fill(tmp_path, [1, 2, 3], keep_last=1) == [2, 3]
  with store_in(tmp_path) as store:
    assert store.best_step is None
    with pytest.raises(ValueError, match=r"checkpoint\.metric .*\['loss'\]"):
      store.save(4, make_state(), {}, {'loss': 1.0})


def test_another_run_is_refused_before_arrays_are_read(tmp_path):
  fill(tmp_path, [1])
  shutil.rmtree(tmp_path / '1' / 'state')
  saved = {'model': {'width': 64, 'depth': 2}, 'data': {'rows': 8}}
  wanted = {'model': {'width': 96, 'depth': 2}, 'data': {'rows': 16}}

  def check(meta):
    assert meta == {'step': 1}
    compare(saved, wanted)

  with store_in(tmp_path) as store, pytest.raises(ValueError) as error:
    store.restore(abstract(make_state()), check=check)
  message = str(error.value)
  assert 'data.rows is 8 there and 16 here' in message
  assert 'model.width is 64 there and 96 here' in message
  assert 'depth' not in message and 'new workdir' in message
  compare({'sizes': (1, 2)}, json.loads('{"sizes": [1, 2]}'))
  with pytest.raises(ValueError, match='b is absent there and 1 here'):
    compare({}, {'b': 1})


def test_another_type_shape_or_name_is_refused_not_cast(tmp_path):
  fill(tmp_path, [1])
  state = make_state()
  half = state.params['kernel'].astype(jnp.bfloat16)
  cases = {
    r'params\.kernel is float32 \[64, 32\] there and bfloat16 ': {
      **state.params,
      'kernel': half,
    },
    r'params\.bias is bfloat16 \[4\] there and bfloat16 \[5\] here': {
      **state.params,
      'bias': jnp.zeros(5, jnp.bfloat16),
    },
    r'params\.gate is nothing there and float32 \[\] here': {
      **state.params,
      'gate': jnp.float32(0),
    },
  }
  with store_in(tmp_path) as store:
    for message, params in cases.items():
      with pytest.raises(ValueError, match=message):
        store.restore(abstract(state.replace(params=params)))


def test_a_full_disk_is_told_in_a_paragraph(tmp_path, caplog):
  state = {'x': jax.random.bits(jax.random.key(0), (1 << 20,))}
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  store = store_in(tmp_path)
  store.save(1, state, {})
  store.wait()
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
  try:
    store.save(2, state, {})  # in the background: nothing is known yet
    with pytest.raises(CheckpointError, match='could not be written') as error:
      store.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert '\n' not in str(error.value) and not caplog.records
  store.close()
  with store_in(tmp_path) as store:
    assert store.restore(abstract(state)).step == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
  folder = tmp_path / 'checkpoints'
  folder.write_text('in the way')
  with pytest.raises(CheckpointError, match=re.escape(f'{folder} cannot be')):
    store_in(folder)
  folder.unlink()
  with store_in(folder) as store:
    folder.rmdir()
    folder.write_text('in the way')
    with pytest.raises(CheckpointError, match=re.escape(str(folder))):
      store.save(1, make_state(), {})


def test_impossible_settings_name_their_field():
  for field, value in (('every', 0), ('keep_last', 0), ('keep_best', -1)):
    with pytest.raises(ValueError, match=rf'checkpoint\.{field} is {value}'):
      Checkpoints(**{field: value})

"""What was read once is asked often: in memory, and from a file."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

import lctx
from lctx.data.byte_codec import ByteCodec
from lctx.generation import reading
from lctx.generation.memory_file import check_writable, grown
from lctx.memory import (
  Associative,
  Compressive,
  DenseRetrieval,
  GatedDelta,
  GatedLinear,
  HeadGate,
  Infini,
  LongMemory,
  Melodi,
  Memory,
  MostUsed,
  OnLayers,
  Projected,
  Retrieval,
  SinkCache,
  StateCell,
  Together,
  Tokens,
  TransientGlobal,
  XLCache,
)
from lctx.positions import Learned, Rope

A, B = 'The whale swam under the ship, ', 'and the captain saw it.'
GREEDY = lctx.Sampling(temperature=0, repetition_penalty=1.7)


def loaded_of(
  *, seed=0, segment=8, codec=None, dtype='float32', memory=None, **fields
):
  """A model whose every parameter matters, as `lctx.load` gives one."""
  model = tiny.transformer_xl(vocab=256, **fields)
  model = dataclasses.replace(
    model, compute=lctx.Compute(dtype), memory=memory or model.memory
  )
  lanes = lctx.Lanes(lctx.Text('x'), segment=segment)
  config = lctx.Config(model, lanes, lctx.Adam())
  params = tiny.large_params(model, seed)
  codec = codec or ByteCodec(range(256))
  return lctx.Loaded(model, params, codec, config, 1)


@pytest.fixture(scope='module')
def loaded():
  return loaded_of()


def same(found, wanted, close):
  """Slots that hold nothing may hold anything."""
  assert (found.tokens, found.text_hash) == (wanted.tokens, wanted.text_hash)
  np.testing.assert_array_equal(found.state.seen_BV, wanted.state.seen_BV)
  close(found.state.hidden_BD, wanted.state.hidden_BD)
  carries = found.state.carry, wanted.state.carry
  jax.tree.map(close, *([x.memory for x in carry.layers] for carry in carries))
  held, others = (np.asarray(x.open.at.document) >= 0 for x in carries)
  np.testing.assert_array_equal(held, others)
  for name in ('x', 'k', 'v'):
    close(*(np.asarray(getattr(x.open, name))[held] for x in carries))


@pytest.mark.parametrize(
  'memory',
  [
    Memory(),
    XLCache(20, same_length=True),
    pytest.param(XLCache(5, carrier=Projected()), marks=pytest.mark.grid),
    pytest.param(TransientGlobal(4, causal=True), marks=pytest.mark.grid),
    Compressive(8, 6, 4, MostUsed()),
    Tokens(2),
    StateCell(3),
    GatedDelta(chunk=5, gate=HeadGate()),
    SinkCache(9, 2),
    OnLayers((1,), Together(XLCache(5), Retrieval(24, 3)), Infini()),
    pytest.param(
      OnLayers((0,), GatedLinear(gate=HeadGate()), Infini(delta=True)),
      marks=pytest.mark.grid,
    ),
    OnLayers((1,), Melodi(8, 2, LongMemory(4, 2)), Melodi(8, 2)),
    Together(DenseRetrieval(12), Associative(2, 4)),
  ],
  ids=lambda memory: type(memory).__name__,
)
def test_any_memory_reads_on_and_fits_in_a_file(memory, tmp_path, close):
  depth = 2 if isinstance(memory, OnLayers) else 1
  some = loaded_of(memory=memory, position=Rope(), depth=depth)
  lctx.save_memory(some.read(A[:11]), tmp_path / 'memory')
  first = lctx.load_memory(tmp_path / 'memory', some)
  asked = some.score(B, after=first)
  close(asked, some.score(A[:11] + B)[-len(B) :], 1e-4)
  rest = A[11:] + B + '.'  # whole segments
  last = some.read(rest, after=first)
  same(last, some.read(A[:11] + rest), close)
  assert last.num_bytes == first.num_bytes
  # Back to the first, which reading on has not changed.
  np.testing.assert_array_equal(some.score(B, after=first), asked)
  assert np.abs(some.score(B, after=last) - asked).max() > 0.01


@pytest.mark.parametrize('cut', [1, 9, 15, 23, 30])
def test_reading_on_is_reading_all(loaded, close, cut):
  """Segments of 8: the start mark and 15 letters fill two of them."""
  first = loaded.read(A[:cut])
  both = loaded.read(A[cut:] + B, after=first)
  same(both, loaded.read(A + B), close)
  same(loaded.read(B, after=loaded.read(A[cut:], after=first)), both, close)


def test_a_memory_may_branch_and_is_never_used_up(loaded):
  memory = loaded.read(A)
  ways = loaded.generate([B, 'who', ''], 12, sampling=GREEDY, after=memory)
  for way, prompt in zip(ways, [B, 'who', ''], strict=True):
    alone = loaded.generate(A + prompt, 12, sampling=GREEDY)
    assert way == alone
    again = loaded.generate(prompt, 12, sampling=GREEDY, after=memory)
    assert again == alone
  assert len(set(ways)) > 1


def test_reading_on_compiles_few_programs(loaded, monkeypatch):
  plain = reading.read_piece.__wrapped__
  fresh = jax.jit(lambda *args: plain(*args))  # no other test's programs
  monkeypatch.setattr(reading, 'read_piece', fresh)
  memory = loaded.read(A)
  for n in range(1, 24):
    memory = loaded.read('x' * (n % 3 + 1), after=memory)
  begins, goes_on = {1, 4, 8}, {1, 2}  # widths of pieces, by where they start
  assert fresh._cache_size() == len(begins) + len(goes_on)


def test_what_follows_is_scored_as_in_one_text(loaded, close):
  whole, memory = loaded.score(A + B), loaded.read(A)
  close(loaded.score(B, after=memory), whole[-len(B) :])
  close(loaded.score(B[:1], after=memory), whole[-len(B) :][:1])
  with pytest.raises(ValueError, match='nothing to score'):
    loaded.score('', after=memory)
  assert not np.allclose(loaded.score(B), whole[-len(B) :], atol=0.1)


def test_a_file_holds_all_of_it(loaded, tmp_path, close):
  memory = loaded.read(A)
  lctx.save_memory(memory, tmp_path / 'whale.safetensors')
  back = lctx.load_memory(tmp_path / 'whale.safetensors', loaded_of())
  jax.tree.map(np.testing.assert_array_equal, back.state, memory.state)
  assert back.tokens == memory.tokens == len(A) + 1
  assert back.text_hash == memory.text_hash
  close(loaded.score(B, after=back), loaded.score(B, after=memory))
  size = (tmp_path / 'whale.safetensors').stat().st_size
  assert memory.num_bytes < size < memory.num_bytes + 10_000
  assert loaded.read(A * 9).num_bytes == memory.num_bytes


def test_half_precision_survives_a_file(tmp_path):
  half = loaded_of(dtype='bfloat16')
  memory = half.read(A)
  lctx.save_memory(memory, tmp_path / 'memory')
  back = lctx.load_memory(tmp_path / 'memory', half)
  assert back.state.hidden_BD.dtype == jax.numpy.bfloat16
  jax.tree.map(np.testing.assert_array_equal, back.state, memory.state)


@pytest.mark.parametrize(
  'other, words',
  [
    ({'seed': 1}, ['parameters is']),
    ({'memory_length': 7}, ['memory is XLCache(length=6', 'XLCache(length=7']),
    ({'segment': 4}, ['segment is 8 there and 4 here']),
    ({'codec': ByteCodec([*range(1, 256), 0])}, ['tokenizer is bytes', 'hash']),
    ({'dtype': 'bfloat16'}, ['dtype is float32 there and bfloat16 here']),
    ({'pre_norm': True}, ['rest of the model is']),
    ({'position': Rope()}, ['position is RelativeXL', 'Rope']),
  ],
  ids=lambda x: ' '.join(x),
)
def test_the_memory_of_another_model_is_refused_by_name(
  loaded, tmp_path, other, words
):
  lctx.save_memory(loaded.read(A), tmp_path / 'memory')
  with pytest.raises(lctx.UserError) as error:
    lctx.load_memory(tmp_path / 'memory', loaded_of(**other))
  for word in words:
    assert word in str(error.value)


def test_the_memory_of_another_layout_is_refused_by_its_array(loaded, tmp_path):
  """As another version may have, of the same model."""
  memory = loaded.read(A)
  state = memory.state.replace(stopped_B=memory.state.step)
  memory = dataclasses.replace(memory, state=state)
  lctx.save_memory(memory, tmp_path / 'memory')
  with pytest.raises(lctx.UserError, match=r'stopped_B is int32 \(\) there'):
    lctx.load_memory(tmp_path / 'memory', loaded)


def test_another_model_does_not_go_on_from_a_memory(loaded):
  for other in (loaded_of(seed=1), loaded_of(dtype='bfloat16')):
    for use in ('read', 'score', 'generate'):
      with pytest.raises(lctx.UserError, match='of another model'):
        getattr(other, use)(B, after=loaded.read(A))


def test_what_is_no_memory_is_refused(loaded, tmp_path):
  (tmp_path / 'text').write_text('whale')
  save_file({'x': np.zeros(2)}, tmp_path / 'weights')
  lctx.save_memory(loaded.read(A), tmp_path / 'memory')
  whole = (tmp_path / 'memory').read_bytes()
  (tmp_path / 'cut').write_bytes(whole[: len(whole) // 2])
  flipped = bytearray(whole)
  flipped[len(whole) // 2] ^= 1
  (tmp_path / 'flipped').write_bytes(flipped)
  (tmp_path / 'other').write_bytes(whole.replace(b'tokens', b'tokons', 1))
  for name, words in (
    ('nothing', 'no file'),
    ('text', 'damaged'),
    ('cut', 'damaged'),
    ('flipped', 'damaged'),
    ('other', 'damaged'),
    ('weights', "not of the format 'lctx memory 1'"),
    ('', 'no file'),
  ):
    with pytest.raises(lctx.UserError, match=words):
      lctx.load_memory(tmp_path / name, loaded)


def test_a_file_that_cannot_be_written_is_told_before_reading(loaded, tmp_path):
  (tmp_path / 'text').write_text('whale')
  for path in (tmp_path, '', tmp_path / 'text/memory', 'gs://bucket/memory'):
    with pytest.raises(lctx.UserError):
      check_writable(path)
  with pytest.raises(lctx.UserError, match='is a folder'):
    lctx.save_memory(loaded.read(A), tmp_path)


def test_the_hash_of_a_text_knows_no_cuts():
  ids = np.arange(50) % 7
  whole = grown('', ids)
  assert grown(grown('', ids[:20]), ids[20:]) == whole
  swapped = ids.copy()
  swapped[[3, 4]] = swapped[[4, 3]]
  for other in (ids[:-1], np.append(0, ids), swapped):
    assert grown('', other) != whole


def test_what_a_table_of_positions_cannot_hold_is_refused():
  short = loaded_of(position=Learned(40))
  memory = short.read(A)
  with pytest.raises(ValueError, match='longer than there is room for'):
    short.read(B, after=memory)

"""Models of llama2.c: read, written, and a real one that gives what it gave."""

import json
import os
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tokenizers import Tokenizer

from lctx import presets
from lctx.generation import decode
from lctx.generation.sampling import Sampling
from lctx.interop import llama2c
from lctx.interop.llama2c_tokenizer import tokenizer_json
from lctx.layers.norm import RMSNorm
from lctx.memory import XLCache
from lctx.positions import Rope

STORIES = os.environ.get('LCTX_STORIES260K')


def model_of(tied=True, position=None):
  return presets.llama(
    *(2, 16, 4, 24),
    embed={'vocab': 29, 'tie_weights': tied},
    stack={'ffn_width': 20, 'norm': RMSNorm(1e-5)},
    heads={'keys': 2},
    position=position or Rope(interleaved=True),
  )


@pytest.mark.parametrize('tied', [True, False])
def test_what_is_written_is_read_again(tied, tmp_path):
  model = model_of(tied)
  params = tiny.large_params(model)
  llama2c.save(tmp_path / 'model.bin', model, params)
  again, got = llama2c.load(tmp_path / 'model.bin')
  for field in ('embed', 'position', 'heads', 'memory', 'pattern'):
    assert getattr(again, field) == getattr(model, field)
  assert jax.tree.structure(got) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, got, params)
  header = np.fromfile(tmp_path / 'model.bin', '<i4', 7).tolist()
  assert header == [16, 20, 2, 4, 2, 29 if tied else -29, 24]


def test_pairs_of_neighbours_are_pairs_of_halves_in_another_order(close):
  """So the same model with its channels sorted is a Llama's."""
  model = model_of()
  params, ids = tiny.large_params(model), tiny.some_ids(2, 12)
  want, _ = tiny.loop(model, params, ids, [12])
  again, params = llama2c.as_llama(model, params)
  assert again == model_of(position=Rope())
  got, _ = tiny.loop(again, params, ids, [12])
  close(got, want)


def test_what_is_no_model_is_refused(tmp_path):
  path = tmp_path / 'model.bin'
  with pytest.raises(ValueError, match='There is no file'):
    llama2c.load(path)
  path.write_bytes(b'text')
  with pytest.raises(ValueError, match='does not begin with the sizes'):
    llama2c.load(path)
  model = model_of()
  llama2c.save(path, model, tiny.large_params(model))
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(ValueError, match='numbers, but a model of its sizes'):
    llama2c.load(path)
  with pytest.raises(ValueError, match=r'model\.position = .* would come back'):
    odd = model_of(position=Rope())
    llama2c.save(path, odd, tiny.large_params(odd))
  with pytest.raises(ValueError, match=r'model\.memory = .* xlcache alone'):
    odd = model.clone(memory=XLCache(24, same_length=True))
    llama2c.save(path, odd, tiny.large_params(odd))


@pytest.mark.skipif(not STORIES, reason='LCTX_STORIES260K names no folder')
def test_stories_260k_writes_and_reads_as_published(close):
  model, params = llama2c.load(Path(STORIES) / 'stories260K.bin')
  golden = json.loads((Path(STORIES) / 'golden.json').read_text())
  request = decode.Request(
    [np.array([1], np.int32)], 256, Sampling(temperature=0)
  )
  rows = decode.generate(model, params, request, 128)
  got = [1, *(int(row[0]) for row in rows)]
  assert got == golden['greedy_ids_from_bos']
  ids = np.array(golden['sample_first_1200_chars_ids'], np.int32)
  nats = decode.score(model, params, ids, 128)
  assert nats.mean() == pytest.approx(golden['sample_mean_nll'], abs=1e-4)
  hidden, _ = tiny.loop(model, params, jnp.array([[1]], jnp.int32), [1])
  logits = model.apply({'params': params}, hidden, method='logits')
  close(logits[0, 0], np.array(golden['bos_logits']))


def tokenizer_file(path, pieces):
  """As llama2.c writes it: marks, bytes, then pieces with the best first."""
  tokens = [b'<unk>', b'\n<s>\n', b'\n</s>\n']
  tokens += [f'<0x{x:02X}>'.encode() for x in range(256)]
  data = struct.pack('<i', 9)
  scores = [0.0] * len(tokens) + [-float(i) for i in range(len(pieces))]
  for score, text in zip(scores, [*tokens, *pieces]):
    data += struct.pack('<fi', score, len(text)) + text
  path.write_bytes(data)
  return path


def test_its_tokenizer_merges_the_best_pairs_first(tmp_path):
  pieces = [b' a', b'bc', b' ab', b' abc', b' ', b'a', b'b', b'c']
  text = tokenizer_json(tokenizer_file(tmp_path / 'tok.bin', pieces))
  tokenizer = Tokenizer.from_str(text)
  spelled = tokenizer.encode('abc ab\u00e9').tokens
  assert spelled == ['\u2581abc', '\u2581ab', '<0xC3>', '<0xA9>']
  assert (
    tokenizer.decode(tokenizer.encode('abc ab\u00e9').ids) == 'abc ab\u00e9'
  )
  cut = tmp_path / 'tok.bin'
  cut.write_bytes(cut.read_bytes()[:-1])
  with pytest.raises(ValueError, match=r'tok\.bin is no tokenizer of llama2'):
    tokenizer_json(cut)


@pytest.mark.skipif(not STORIES, reason='LCTX_STORIES260K names no folder')
def test_the_real_tokenizer_gives_the_real_ids():
  folder = Path(STORIES)
  tokenizer = Tokenizer.from_str(tokenizer_json(folder / 'tok512.bin'))
  golden = json.loads((folder / 'golden.json').read_text())
  text = (folder / 'tinystories_sample.txt').read_text()
  want = golden['first_2049_ids'][1:]
  assert tokenizer.encode(text).ids[: len(want)] == want

"""The benchmark of memories on books, in small."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import lctx
from benchmarks import books, books_report, timing
from benchmarks.books import Way, read, ways
from benchmarks.memories import Size, memories
from lctx.memory import SinkCache, Together, Tokens, XLCache

SEGMENT, SEGMENTS, FIRST = 4, 18, 6
SIZE = Size(1, 32, 32, SEGMENT, 2 * SEGMENT, 8 * SEGMENT, tokens=128)


@pytest.fixture(scope='module')
def model():
  return tiny.transformer_xl(depth=2, memory_length=SEGMENT)


@pytest.fixture(scope='module')
def params(model):
  return tiny.large_params(model)


@pytest.fixture(scope='module')
def ids():
  return np.asarray(tiny.some_ids(3, SEGMENT * SEGMENTS + 1))


def bits_of(model, params, ids):
  """Bits of every byte, of whole texts one after the other."""
  tokens, targets = jnp.asarray(ids[:, :-1]), jnp.asarray(ids[:, 1:])
  hidden, _ = tiny.loop(model, params, tokens, [SEGMENT] * SEGMENTS)
  logp = tiny.log_probs(model, params, hidden)
  found = -jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
  return np.asarray(found) / np.log(2)


def test_its_own_way_is_reading_as_usual(model, params, ids, close):
  own, none = read(model, params, ids, SEGMENT, [Way('none', 1, forget=True)])
  close(own, bits_of(model, params, ids))
  alone = dataclasses.replace(model, memory=XLCache(0))
  close(none, bits_of(alone, params, ids))


def test_swap_is_what_another_text_remembers(model, params, ids, close):
  """Text b read on after a beginning of text b + 1."""
  _, swap = read(model, params, ids, SEGMENT, [Way('swap', 1)])
  for turn in (1, 7):
    mixed = np.roll(ids, -1, axis=0)
    first, end = turn * SEGMENT, (turn + 1) * SEGMENT
    mixed[:, first : end + 1] = ids[:, first : end + 1]
    want = bits_of(model, params, mixed)
    close(swap[:, first:end], want[:, first:end])


def test_text_beyond_what_layers_can_reach_changes_nothing(model, params, ids):
  """Two layers of one segment each carry text two segments far, no more."""
  how = [Way(str(period), period) for period in (2, 3, 5)]
  how += [dataclasses.replace(way, forget=True) for way in how]
  own, *others = read(model, params, ids, SEGMENT, how)
  for way, bits in zip(how, others, strict=True):
    counts = way.counts(SEGMENTS, FIRST)
    assert counts.sum() >= 2 and not counts[:FIRST].any()
    counts = counts.repeat(SEGMENT)
    same = np.allclose(bits[:, counts], own[:, counts], atol=1e-5)
    assert same == (way.period - 1 >= 2), way


def test_every_way_reads_text_beyond_the_reach():
  for reach in (0, 1, 2):
    for way in ways(reach):
      if way.name.endswith(('beyond', 'forgotten')):
        assert way.period - 1 == reach + int(way.name.split()[0])
  assert [w.name for w in ways(0) if w.forget] == [
    'none',
    *(f'{b} beyond, forgotten' for b in books.BEYOND),
  ]


def test_a_reach_is_what_is_attended_to_as_it_was():
  assert books.reach(XLCache(8), SEGMENT) == 2
  assert books.reach(SinkCache(8, 1), SEGMENT) == 2
  assert books.reach(Together(XLCache(4), Tokens(2)), SEGMENT) == 1
  assert books.reach(Tokens(2), SEGMENT) == 0
  found = {n: books.reach(m, SEGMENT) for n, m in memories(SIZE).items()}
  assert found['compressive'] == found['state cell'] == 1
  assert found['gated delta, hybrid'] == 1 and found['xl'] == 2
  assert found['infini'] == found['retrieval'] == found['none'] == 0


def run_of(name, flops, own, ways=None, seed=0):
  places = dict.fromkeys(map(str, books_report.PLACES[:-1]), own)
  own = {'1': own, '3': own}
  ways = ways or {}
  return {
    'model': name,
    'seed': seed,
    'reach': 0,
    'steps': 1,
    'seconds': 1.0,
    'flops': flops,
    'own': own,
    'places': places,
    'ways': {n: {'period': 3, 'bits': bits} for n, bits in ways.items()},
  }


def remembering(far, forgotten, bits=2.0):
  ways = {'swap': [far] * 6, 'none': [far] * 6}
  for b in books.BEYOND:
    ways[f'{b} beyond'] = [far] * 6
    ways[f'{b} beyond, forgotten'] = [forgotten] * 6
  return run_of('xl', 5.0, [bits] * 6, ways)


def plain(bits=2.1):
  return [
    run_of('none', 3.0, [2.2] * 6),
    run_of('window 8', 4.0, [2.15] * 6),
    run_of('window 32', 9.0, [1.5] * 6),
    run_of('window 16', 5.0, [bits] * 6),
  ]


def test_a_memory_helps_where_far_text_helps_and_the_window_is_beaten():
  def says(memory, others):
    return books_report.verdict(memory, [memory, *others])

  assert says(remembering(2.01, 2.02), plain()) == 'helps'
  worse = [run_of('none', 3.0, [1.9] * 6), *plain()[1:]]
  for memory, others in (
    (remembering(2.01, 2.02), worse),
    (remembering(2.0, 2.02), plain()),
    (remembering(2.01, 1.99), plain()),
    (remembering(2.01, 2.02), plain(bits=1.9)),
  ):
    assert says(memory, others) == 'runs, does not help yet'
  assert says(remembering(np.nan, 2.02), plain()).startswith('runs')
  assert says(remembering(2.01, 2.02), plain()[:2]) == ''
  assert says(remembering(2.01, 2.02), plain()[1:]) == ''
  assert says(remembering(2.0, 2.02), plain()[:2]).startswith('runs')


def test_a_memory_helps_where_every_training_of_it_does():
  def trained(seed, *gains):
    models = [remembering(*gains), *plain()]
    return [{**x, 'seed': seed} for x in models]

  good, bad = (2.01, 2.02), (2.0, 2.02)
  for first, second, wanted in (
    (good, good, 'helps'),
    (good, bad, 'runs, does not help yet'),
    (bad, good, 'runs, does not help yet'),
  ):
    every = trained(0, *first) + trained(1, *second)
    assert books_report.decided('xl', every) == wanted
  alone = [{**remembering(*good), 'seed': 1}]  # its windows are missing
  assert books_report.decided('xl', trained(0, *good) + alone) == ''
  assert books_report.decided('xl', alone + trained(0, *bad)).startswith('runs')
  worse = [{**x, 'seed': 1} for x in plain(bits=1.9)]  # of another seed
  every = [*trained(0, *good), *worse]
  assert books_report.verdict(every[0], every) == 'helps'


def test_intervals_are_of_books():
  random = np.random.default_rng(0)
  ours, theirs = random.normal(2, 1, 200), random.normal(0.1, 0.2, 200)
  found = books_report.gain(list(ours + theirs), list(ours))
  assert found.value == pytest.approx(theirs.mean())
  half = 1.96 * theirs.std() / np.sqrt(200)
  assert found.high - found.value == pytest.approx(half, rel=0.1)
  assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_the_tables_have_every_model_and_the_picture_every_memory(tmp_path):
  every = [remembering(2.01, 2.02), *plain()]
  text = books_report.table(every)
  assert '+0.0100 (+0.0100..+0.0100)' in text and 'helps' in text
  assert all(f'window {w}' in text for w in (8, 16, 32))
  books_report.pictured(every, str(tmp_path / 'a.png'))
  for name in ('a.png', 'a_by_place.png'):
    assert (tmp_path / name).stat().st_size > 10_000


def test_by_place_every_window_is_whole():
  """One that gets better along each window is as good at every place."""
  for size in (books.SMALL, books.LARGE):
    edges = {books.first_of(size), *books_report.PLACES}
    assert not any(edge % window for edge in edges for window in books.WINDOWS)
  window = max(books.WINDOWS)
  bits = np.tile(1 - np.arange(window) / window, (3, books.READ // window))
  found = books.placed(bits)
  assert list(map(int, found)) == [*books_report.PLACES[:-1]]
  assert all(np.allclose(x, bits.mean(), atol=1e-5) for x in found.values())
  memory, twin = remembering(2.01, 2.02), run_of('none', 3.0, [2.2] * 6)
  twin['places'] = twin['places'] | {'64': [2.5] * 6}
  (gains,) = {
    tuple(g.value for g in line)
    for line in books_report.by_place(memory, [memory, twin]).values()
  }
  assert gains == pytest.approx((0.2, 0.2, 0.2, 0.2, 0.2, 0.5))


def shelf(folder):
  random = np.random.default_rng(0)
  folder.mkdir()
  lines = ['file\tsplit']
  for number in range(6):
    words = random.choice([b'the ', b'cat ', b'sat\n'], 400)
    (folder / f'{number}.txt').write_bytes(b''.join(words))
    lines.append(f'{number}.txt\t{"train" if number < 4 else "test"}')
  (folder / 'index.tsv').write_text('\n'.join(lines) + '\n')
  return folder


def test_one_model_is_trained_and_read_with(tmp_path):
  runs = tmp_path / 'runs'
  corpus, texts = books.shelves(shelf(tmp_path / 'books'), runs, SIZE, steps=2)
  assert sorted(p.name for p in corpus.iterdir()) == [
    *('000.txt', '001.txt', 'test.txt', 'valid.txt')
  ]
  whole = b''.join(p.read_bytes() for p in sorted(corpus.glob('0*')))
  assert len(whole) == 2 * SIZE.tokens
  assert texts.shape == (2, books.READ * SEGMENT)
  found = books.measured('xl', SIZE, runs, (corpus, texts), 2, seed=1)
  assert (runs / 'xl, seed 1').is_dir() and found['seed'] == 1
  assert found['steps'] == 2 and found['reach'] == 2
  assert set(found['ways']) == {way.name for way in ways(2)}
  for way in found['ways'].values():
    assert len(way['bits']) == 2 and np.isfinite(way['bits']).all()
    assert str(way['period']) in found['own']
  assert set(found['places']) == {*map(str, books_report.PLACES[:-1])}
  other = books.digest(corpus, texts)
  (corpus / '000.txt').write_bytes(b'another text')
  assert books.digest(corpus, texts) != other


def test_results_of_other_settings_are_refused(tmp_path):
  path = tmp_path / 'results'
  timing.append_json({'model': 'xl', 'steps': 3}, str(path))
  assert len(timing.known(path, steps=3)) == 1
  with pytest.raises(lctx.UserError, match='steps = 3, and these would be'):
    timing.known(path, steps=4)
  assert timing.known(tmp_path / 'nothing', steps=4) == []


def test_a_folder_without_an_index_is_named(tmp_path):
  with pytest.raises(lctx.UserError, match=r'index.tsv is not there'):
    books.shelves(tmp_path, tmp_path / 'runs', SIZE, 9)
  (tmp_path / 'index.tsv').write_text('name\tkind\n')
  with pytest.raises(lctx.UserError, match='no columns `file` and `split`'):
    books.shelves(tmp_path, tmp_path / 'runs', SIZE, 9)


def test_a_book_that_is_too_short_is_named(tmp_path):
  with pytest.raises(lctx.UserError, match='has 1,600 bytes, and 16,384'):
    books.shelves(shelf(tmp_path / 'books'), tmp_path, books.SMALL, 9)


@pytest.mark.parametrize('size', [books.SMALL, books.LARGE])
def test_every_model_of_the_benchmark_has_a_config(tmp_path, size):
  for name in books.models(size):
    config = books.config_of(name, size, tmp_path, steps=10, seed=3)
    assert config.seed == 3
    lanes = config.data
    assert lanes.rows * lanes.segment * lanes.segments == size.tokens
    assert config.model.remembers == (name != 'none' and 'window' not in name)
    params = jax.eval_shape(
      config.model.with_vocabulary(256).init_params, jax.random.key(0)
    )
    if size == books.LARGE:
      count = sum(leaf.size for leaf in jax.tree.leaves(params))
      assert 0.95e8 < count < 1.4e8, name

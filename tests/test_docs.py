"""What the pages say is so: links, commands, examples and numbers."""

import ast
import dataclasses
import re
import shlex
import subprocess
import types
from pathlib import Path

import grid
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support_matrix
import tiny

import lctx
from benchmarks import learning
from lctx import command, config, patterns
from lctx.generation.reading import Reader, unread
from lctx.patterns.causal import Causal
from lctx.types import segment_coords

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
PAGES = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]
VOCABULARY = {
  'quickstart': 256,
  'novel': 256,
  'shakespeare': 256,
  'enwik8': 204,
  'text8': 27,
  'wt103': 267_735,
  'lm1b': 793_471,
  'pg19': 32_000,
  'wiki40b': 32_000,
}
INSTALL_AND_TEST = "pip install -e '.[test]' && python -m pytest"


def blocks(text, language):
  return re.findall(rf'^ *```{language}\n(.*?)^ *```', text, re.M | re.S)


def programs(text):
  """The arguments of every command line that starts a program of ours."""
  for block in blocks(text, 'bash'):
    for line in block.replace('\\\n', ' ').split('\n'):
      words = shlex.split(line, comments=True)
      if 'python' in words and '--workdir' in line:
        yield words[words.index('python') + 1 :]


def test_the_readme_opens_with_a_sentence_a_picture_and_two_commands():
  sentence, picture = README.split('\n\n')[:2]
  assert sentence.count('. ') == 0 and sentence.endswith('.')
  assert picture.startswith('![') and picture.endswith('.png)')
  train, test = blocks(README, 'bash')[:2]
  assert train.strip() == (
    'pip install -e . && python train.py --config=configs/quickstart.py '
    '--workdir=runs/quickstart'
  )
  assert test.strip() == INSTALL_AND_TEST


def test_ci_runs_the_command_of_the_readme():
  script = (ROOT / '.ci/run').read_text()
  pattern = re.search(r"grep -E '(.*)' README\.md", script)[1]
  found = [x for x in README.split('\n') if re.search(pattern, x)]
  assert [line.strip() for line in found] == [INSTALL_AND_TEST]
  subprocess.run(['bash', '-n', ROOT / '.ci/run'], check=True)


def anchors(page):
  """Of the headings of a page, as GitHub makes them."""
  titles = re.findall(r'^#+ (.*)$', page.read_text(), re.M)
  kept = (re.sub(r'[^\w\- ]', '', title.lower()) for title in titles)
  return {title.replace(' ', '-') for title in kept}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
  links = re.findall(r'\]\(([^)#\s]*)(?:#([^)\s]*))?', page.read_text())
  for link, anchor in links:
    if '://' in link:
      continue
    there = page.parent / link if link else page
    assert there.exists(), link
    assert not anchor or anchor in anchors(there), (link, anchor)


def test_every_command_of_the_readme_is_accepted_as_it_stands():
  found = list(programs(README))
  assert len(found) >= 7
  for arguments in found:
    overrides, flags = command.take_overrides(arguments)
    named = dict(flag.split('=', 1) for flag in flags if '=' in flag)
    program = flags[1] if flags[0] == '-m' else flags[0]
    path = ROOT / program.replace('.', '/', '-m' in flags)
    assert any(p.exists() for p in (ROOT / program, path, Path(f'{path}.py')))
    of_model = named.get('--config', '').startswith('configs/published.py')
    if program == 'eval.py' or of_model:
      named['--config'] = 'configs/quickstart.py'
    if '--config' in named:
      config.load(ROOT / named['--config'].replace('NAME', 'novel'), overrides)


def test_the_first_example_of_the_readme_runs():
  found = {}
  exec(compile(blocks(README, 'python')[0], 'README.md', 'exec'), found)
  assert found['hidden'].shape == (2, 16, 64)
  assert found['model'].remembers


def test_the_readme_names_what_there_is():
  trees = [ast.parse(block) for block in blocks(README, 'python')[1:]]
  names = {
    node.attr
    for tree in trees
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'lctx'
  }
  assert {'train', 'load', 'Sampling'} <= names <= set(lctx.__all__)


@pytest.mark.parametrize(
  'line', re.findall(r'^\| \[`.*', README, re.M), ids=lambda x: x.split('`')[1]
)
def test_the_readme_claims_what_the_config_claims(line):
  cells = [cell.strip() for cell in line.strip('|').split('|')]
  names, parameters, claim, source = cells
  for name in re.findall(r'\[`(\w+)`\]', names):
    path = ROOT / f'configs/{name}.py'
    text = ' '.join(ast.get_docstring(ast.parse(path.read_text())).split())
    assert claim == 'none' or claim.split()[0] in text
    assert source.split(',')[0] in text
    model = config.load(path).model
    model = model.with_vocabulary(VOCABULARY[name.split('_')[0]])
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert f'{count:,}' == parameters


def test_readme_and_notebook_have_one_address():
  notebook = (ROOT / 'colab/quickstart.ipynb').read_text()
  badge = r'https://colab\.research\.google\.com/github/([\w/-]+)/blob/main/'
  here, there = (re.search(badge, text)[1] for text in (README, notebook))
  assert here == there
  assert f"REPOSITORY = 'https://github.com/{here}'" in notebook


@pytest.fixture(scope='module')
def example():
  """The parts that the architecture page adds, from its own code."""
  page = (ROOT / 'docs/architecture.md').read_text()
  code = [x for x in blocks(page, 'python') if 'model.apply' not in x]
  module = types.ModuleType('example')
  for block in code:
    exec(compile(block, 'docs/architecture.md', 'exec'), vars(module))
  return module


def test_the_position_of_the_example_scans_as_it_reads_at_once(example, close):
  long = dataclasses.replace(example.model.memory, length=12)
  model = dataclasses.replace(example.model, memory=long)
  params = tiny.large_params(model)
  tokens = tiny.some_ids(rows=2, length=12)
  whole, _ = tiny.loop(model, params, tokens, [12])
  parts, _ = tiny.loop(model, params, tokens, [5, 1, 6])
  close(parts, whole)
  score = example.LogFall(jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5]))
  at = segment_coords(jnp.zeros((1, 3), jnp.int32))
  fall = score.block(jnp.zeros((2, 1, 3, 3)), None, at, at)
  strength, rate = np.log1p(np.exp([1.0, -2.0])), np.log1p(np.exp([3.0, 0.5]))
  want = -strength * np.log1p(rate * 2)
  close(fall[:, 0, 2, 0], want)


def test_the_memory_of_the_example_obeys_the_laws_of_all(example, close):
  """Reset in a segment, and read token by token as by segments; it learns."""
  model = example.model_with_trace
  model = dataclasses.replace(
    model, embed=dataclasses.replace(model.embed, vocab=29)
  )
  params, tokens = tiny.large_params(model), tiny.some_ids(rows=2, length=12)
  document = jnp.zeros_like(tokens).at[1, 7:].set(1)
  alone = jnp.where(document == 1, document, -1)
  packed, _ = tiny.loop(model, params, tokens, [4, 4, 4], document)
  by_itself, _ = tiny.loop(model, params, tokens, [4, 4, 4], alone)
  close(packed[1, 7:], by_itself[1, 7:])
  bare = dataclasses.replace(model, memory=model.memory.first)
  without, _ = tiny.loop(bare, params, tokens, [4, 4, 4], document)
  close(packed[:, :4], without[:, :4])
  assert np.abs(packed - without)[:, 4:].max() > 1e-3
  ids = jnp.concatenate([tokens, tokens[:, :1]], axis=1)

  @tiny.quick_jit
  def taught(params):
    def losses(params):
      hidden, carry = [], model.initial(2)
      for part in jnp.split(tokens, 3, axis=1):
        nobody = jnp.zeros_like(part)
        x, carry = tiny.segment_of(model, params, part, nobody, carry)
        hidden.append(x)
      given = {'params': params}, jnp.concatenate(hidden, axis=1), ids[:, 1:]
      nll = model.apply(*given, method='nll')
      return nll.sum(), nll

    return jax.grad(losses, has_aux=True)(params)

  grads, nll = taught(params)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
  reader = Reader(model.for_inference(), params, model.scores(params, 4))
  got = tiny.decoded(reader, unread(reader, 2, 4), ids)
  close(got, nll, 1e-4)


def test_patterns_are_drawn_as_the_page_draws_them():
  page = (ROOT / 'docs/architecture.md').read_text()
  rows = re.findall(
    r'^\| `(.*)`(?: \(.*\))?(, head 1)? \| (`[#.].*`) \|$', page, re.M
  )
  assert len(rows) == 10
  for code, head, picture in rows:
    pattern = eval(code.replace('\\|', '|'), vars(patterns))
    drawn = patterns.picture(pattern, 5, head=1 if head else 0)
    assert drawn == re.findall(r'`([#.]+)`', picture), code


def test_the_pattern_of_the_example_forgets_the_segment_before(example, close):
  pattern = Causal() & example.OwnSegment()
  model = dataclasses.replace(example.model, pattern=pattern)
  params = tiny.large_params(model)
  tokens = tiny.some_ids(rows=2, length=12)
  parts, _ = tiny.loop(model, params, tokens, [6, 6])
  alone, _ = tiny.loop(model, params, tokens[:, 6:], [6])
  close(parts[:, 6:], alone)


def test_a_page_says_of_each_memory_whether_it_helps():
  far = {'period': 3, 'bits': [2.1, 2.2]}
  ways = {'2 beyond': far, '2 beyond, forgotten': far}
  own = {'1': [2.0, 2.0], '3': [2.0, 2.1]}
  books = [
    {'model': name, 'seed': seed, 'flops': flops, 'own': own, 'ways': some}
    for name, seed, flops, some in (
      ('window 256', 0, 9.0, {}),
      ('xl', 0, 8.0, ways),
      ('xl', 1, 8.0, ways),
      ('infini', 0, 9.9, ways),
    )
  ]
  recall = [
    {
      'memory': 'xl',
      'trained': 1,
      'accuracy': {str(gap): float(gap <= held) for gap in learning.BEYOND},
    }
    for held in (2, 8, 4)
  ]
  lines = support_matrix.helped(books, recall).splitlines()[2:]
  gain, none = '+0.1000 (+0.1000..+0.1000)', '+0.0000 (+0.0000..+0.0000)'
  assert lines == [
    f'| xl | runs, does not help yet | {gain}; {gain} | {none};  | 4 |',
    f'| infini | runs, does not help yet | {gain} | {none} |  |',
  ]


def test_a_page_gives_back_what_passed_whole():
  ran = [('attend', *cell) for cell in grid.full() if cell[3] == 'dense']
  found = dict.fromkeys(ran[1:], True)
  text = support_matrix.page(found, 'today', 'here')
  position, pattern = ran[0][1:3]
  assert support_matrix.earlier(text) == {
    cell: True for cell in ran if cell[1:3] != (position, pattern)
  }


def test_a_page_forgets_pairs_that_cannot_be_any_more():
  """As those of gated delta, which was run with every pattern once."""
  found = {
    ('remember', 'pattern', 'causal', 'gated delta'): True,
    ('remember', 'position', 'rope', 'tokens'): True,
  }
  text = support_matrix.page(found, 'today', 'here')
  lines = text.split('## Memory by pattern')
  row = re.search(r'\n\| gated delta \|.*', lines[1]).group()
  lines[1] = lines[1].replace(row, re.sub(r'\| \w ', '| + ', row))
  assert '| + | + |' in lines[1]
  assert support_matrix.earlier('## Memory by pattern'.join(lines)) == found


def test_a_page_tells_both_pairs_of_a_cell_with_memory(tmp_path):
  cells = {
    ('rope', 'causal', 'tokens'): '',
    ('xl', 'bidirectional', 'tokens'): '<failure/>',
    ('alibi', 'bidirectional', 'tokens'): '',
    ('t5', 'causal', 'tokens'): '<skipped/>',
    ('t5', 'dilated per head', 'several'): '',
  }
  cases = ''.join(
    f'<testcase classname="tests.test_memory_grid" '
    f'name="test_it[{" | ".join(cell)}]">{outcome}</testcase>'
    for cell, outcome in cells.items()
  )
  suite = f'<testsuite timestamp="2026-01-31T00:00:00">{cases}</testsuite>'
  path = tmp_path / 'suite.xml'
  path.write_text(f'<testsuites>{suite}</testsuites>')
  found, date = support_matrix.outcomes([path])
  able = 'state cell', 'infini', 'infini, delta', 'gated linear, beside'
  several = {
    ('remember', axis, part, name): True
    for axis, part in (('position', 't5'), ('pattern', 'dilated per head'))
    for name in able
  }
  assert date == '2026-01-31' and found == several | {
    ('remember', 'position', 'rope', 'tokens'): True,
    ('remember', 'position', 'xl', 'tokens'): False,
    ('remember', 'position', 'alibi', 'tokens'): True,
    ('remember', 'pattern', 'causal', 'tokens'): True,
    ('remember', 'pattern', 'bidirectional', 'tokens'): False,
  }

"""Who imports whom: leftwards only, and nothing heavy before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import lctx

ROOT = Path(lctx.__file__).parent
# Rooms on one line are siblings and never import each other.
ORDER = """
types errors
fields checksum damage products retention
layers positions patterns data losses optimizer sharding checkpoint
overrides command
kernels
memory
models
presets
interop adapt
generation
evaluation
training
fits
config
published plan
loaded prepared
loading
run imported families
lctx
program
"""
RANK = {
  room: rank
  for rank, line in enumerate(ORDER.split('\n'))
  for room in line.split()
}
HEAVY = ('tensorflow', 'torch', 'tensorflow_datasets', 'matplotlib', 'wandb')


def room_of(path):
  """The room of a file; the front page is `lctx`, a `__main__` a program."""
  if path.stem == '__main__':
    return 'program'
  first = path.relative_to(ROOT).parts[0].removesuffix('.py')
  return 'lctx' if first == '__init__' else first


def rooms_imported(path):
  """Rooms that a file imports, wherever in it, with the line."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level:
      names = ['lctx.relative']
    elif isinstance(node, ast.ImportFrom):
      names = [f'{node.module}.{alias.name}' for alias in node.names]
    else:
      continue
    for name in names:
      house, _, rest = name.partition('.')
      if house == 'lctx':
        yield rest.split('.')[0] or 'lctx', node.lineno


def breaches(files):
  found = []
  for path in files:
    room = room_of(path)
    for other, line in rooms_imported(path):
      where = f'{path.relative_to(ROOT)}:{line}'
      if other not in RANK:
        found.append(f'{where}: {other} is no room; import from its module')
      elif other != room and RANK[other] >= RANK.get(room, -1):
        found.append(f'{where}: {room} imports {other}')
  return found


def test_every_room_has_its_place():
  rooms = {room_of(path) for path in ROOT.rglob('*.py')}
  assert rooms <= set(RANK), rooms - set(RANK)


def test_imports_go_leftwards_only():
  found = breaches(sorted(ROOT.rglob('*.py')))
  assert not found, '\n'.join(found)


def test_a_breach_would_be_found(monkeypatch, tmp_path):
  monkeypatch.setattr(sys.modules[__name__], 'ROOT', tmp_path)
  (tmp_path / 'memory').mkdir()
  path = tmp_path / 'memory' / 'xl.py'
  path.write_text(
    'from lctx import losses, presets\n'
    'import lctx.types\n'
    'from lctx import Config\n'
    'def late():\n'
    '  from lctx.models.block import Block\n'
    '  from . import base\n'
  )
  assert [line.split(': ')[0] for line in breaches([path])] == [
    'memory/xl.py:1',
    'memory/xl.py:3',
    'memory/xl.py:5',
    'memory/xl.py:6',
  ]
  sibling = tmp_path / 'losses.py'
  sibling.write_text('from lctx import data\n')
  assert breaches([sibling]) == ['losses.py:1: losses imports data']


def test_the_oracle_imports_nothing_of_ours():
  path = Path(__file__).parent / 'reference.py'
  assert not list(rooms_imported(path))


def test_importing_lctx_imports_nothing_heavy():
  code = (
    'import sys, lctx\n'
    f'print([name for name in {HEAVY!r} if name in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, timeout=120
  )
  assert done.stdout.strip() == '[]', done.stdout + done.stderr

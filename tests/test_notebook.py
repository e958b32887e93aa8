"""The notebook runs from top to bottom, and is stored without outputs."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import tiny
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
FILE = ROOT / 'colab/quickstart.ipynb'


@pytest.fixture
def notebook():
  return nbformat.read(FILE, as_version=4)


@pytest.fixture
def output(notebook, tmp_path, monkeypatch):
  """All that its cells print, on a budget of a few steps."""
  monkeypatch.setenv('LCTX_NOTEBOOK_STEPS', '60')
  monkeypatch.setenv('LCTX_NOTEBOOK_WORKDIR', str(tmp_path / 'run'))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setenv('XLA_FLAGS', tiny.QUICK)
  folder = {'metadata': {'path': str(FILE.parent)}}
  NotebookClient(notebook, timeout=300, resources=folder).execute()
  return {cell.id: _printed(cell) for cell in notebook.cells}


def _printed(cell):
  outputs = cell.get('outputs', [])
  assert not any(output.output_type == 'error' for output in outputs)
  return ''.join(output.get('text', '') for output in outputs)


def test_it_is_stored_without_outputs(notebook):
  for cell in notebook.cells:
    assert not cell.get('outputs') and not cell.get('execution_count')
  assert FILE.stat().st_size < 200_000


@pytest.mark.parametrize('installed', [True, False])
def test_it_installs_where_lctx_is_not_installed(
  notebook, installed, monkeypatch
):
  """However much of it can be imported from the folder it stands in."""
  cell = next(c for c in notebook.cells if 'REPOSITORY' in c.source)
  commands = []

  def version(name):
    if not installed:
      raise importlib.metadata.PackageNotFoundError(name)
    return '1'

  monkeypatch.setattr(importlib.metadata, 'version', version)
  monkeypatch.setattr(subprocess, 'run', lambda x, **_: commands.append(x))
  monkeypatch.setattr(sys, 'path', [*sys.path])
  monkeypatch.chdir(FILE.parent)
  exec(cell.source, {})
  assert Path.cwd() == ROOT
  assert [command[1:4] for command in commands] == (
    [] if installed else [['-m', 'pip', 'install']]
  )


def test_it_trains_stops_goes_on_compares_and_writes(output, notebook):
  done = re.search(r'(\d+) of 60 steps are done', output['train-code'])
  assert 30 <= int(done[1]) < 60
  assert 'compiled in' in output['resume-code']
  assert 'with its memory' in output['resume-code']
  assert 'Memory saves' in output['memory-code']
  assert len(output['generate-code']) > 50
  assert output['score-code'].count('bits per byte') == 4
  pictures = [
    data
    for cell in notebook.cells
    for out in cell.get('outputs', [])
    for data in out.get('data', {})
    if data == 'image/png'
  ]
  assert len(pictures) == 3

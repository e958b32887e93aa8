"""Programs of the project, each in a process of its own.

It is forked from a server that has imported lctx: that alone takes longer than
a program that only says what is wrong.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import tiny

ROOT = Path(__file__).parent.parent
_server = multiprocessing.get_context('forkserver')
_server.set_forkserver_preload(['lctx', 'ml_collections.config_flags'])


def done(program: str, *arguments: str) -> subprocess.CompletedProcess:
  """What `python PROGRAM ARGUMENTS` does, or `python -m`, from the root."""
  with tempfile.TemporaryDirectory() as folder:
    paths = [Path(folder, name) for name in ('stdout', 'stderr')]
    argv = [program, *arguments]
    process = _server.Process(target=_run, args=(argv, paths))
    process.start()
    process.join(300)
    if process.exitcode is None:
      process.kill()
      raise subprocess.TimeoutExpired(argv, 300)
    said = (path.read_text() for path in paths)
    return subprocess.CompletedProcess(argv, process.exitcode, *said)


def _run(argv: list[str], paths: list[Path]) -> None:
  for number, path in enumerate(paths, start=1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
  os.environ['XLA_FLAGS'] = tiny.QUICK
  os.chdir(ROOT)
  sys.argv, sys.path[:0] = argv, [str(ROOT)]
  if argv[0].endswith('.py'):
    runpy.run_path(argv[0], run_name='__main__')
  else:
    runpy.run_module(argv[0], run_name='__main__', alter_sys=True)

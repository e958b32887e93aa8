"""Writes `docs/support_matrix.md` of runs of the grid.

python -m pytest -m grid --junitxml=grid.xml    # hours; the suite's cover:
python -m pytest tests/test_grid.py --junitxml=grid.xml
PYTHONPATH=. python tests/support_matrix.py 'COMMIT, MACHINE' grid.xml ...

Cells that these runs leave out stay as the page has them, if all their scores
passed; say of them too where that was. A page that is removed begins anew.
"""

import collections
import re
import statistics
import string
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import grid

from benchmarks import books_report, learning, timing

SIGNS = {True: '+', False: '!', None: '?'}
PAGE = Path(__file__).parent.parent / 'docs/support_matrix.md'
MEASURED = PAGE.parent / 'measured'
HEAD = """# Support matrix

Written by `tests/support_matrix.py` of a run of the grid and of what is in
[`measured`](measured); the table behind the grid is
[`tests/grid.py`](../tests/grid.py). `python -m pytest -m grid` runs every cell.
The suite runs a cover in which any two entries meet whose terms of logits
differ in more than numbers, so not every stretch of RoPE. With every memory it
has every position and every pattern (XL's cache is that of whole models). Those
that can all be in one model ({several}) meet them there, and alone take kinds
of positions in turn, as do two memories in one model. Five that say themselves
what is seen have a position of every kind, and each other position with one of
them.

{passed:,} cells passed, {failed:,} failed, {left:,} were not run. The last run
was of {date}: {where}.

A row is a position, a column a pattern. The number in a cell counts the scores
that passed there, of {scores}: {names}. A letter says why some cannot be; `?`
that some were not run, `!` that some failed.

{reasons}
"""
KERNEL = """
## {name}

What comes out for all queries and every gradient equal the definition's; so do
the queries of a later segment alone, and a single query whose coordinates
promise nothing, as decoding asks it.

"""
READ = """
## Whole models

Two layers, with each kernel that serves in turn. Read by segments with
gradients through all of them, losses and gradients equal one pass by the
definition, and token by token the losses are the same. Patterns that look ahead
are read in one segment: a token would see what is not there yet.

"""
REMEMBER = """
## Memory by {axis}

Every memory with every {axis}, in models that differ in their {other}, of one
layer where layers do not differ. Read by segments every parameter has a
gradient, through all segments, and a document that begins inside a segment
gives what it gives alone; token by token, as generation reads, the losses are
the same, but for patterns that look ahead, which cannot be read so. With all
memories but XL's cache, stretches of RoPE are read by the program of plain
RoPE, given their scores, and sinusoids by that of learned positions, given as
its table.

"""
HELPS = """
## Does memory help?

"On text": a small model with this memory, on novels it was not trained on
(`python -m benchmarks.books`). It helps where text two segments beyond what
attention reaches brings something, over that of another book and over none, and
where it beats its twin and the plain windows up to the first that costs as many
operations a token, in every training there was; gains are those of each, with
intervals (95 %) that resample books.
"Recall": the longest gap, in segments, over which nine of ten values are found
by keys never seen, from the last gap learned on, the median of {seeds} seeds.
What is asked for is what the first segment of a text says;
others say things of the same kind, and to keep the first one is enough. No
model was trained on more than {trained}, none is asked over more than {asked}
(`python -m benchmarks.learning`). Names are those of
[`benchmarks/memories.py`](../benchmarks/memories.py); what is empty was not
measured. [The log](log.md) has commands, tables and pictures,
[`measured`](measured) every number.

"""
HELPS_COLUMNS = (
  '',
  'on text',
  "bits per byte by text two segments beyond, over another book's",
  'over the best plain model',
  'recall',
)
AXES = {'position': grid.POSITIONS, 'pattern': grid.PATTERNS}


def outcomes(paths: list[str]) -> tuple[dict[tuple[str, ...], bool], str]:
  """Whether each cell passed, by law and cell, when last run; and the date."""
  found, dates = {}, []
  for path in paths:
    some, date = _outcomes(path)
    found |= some
    dates.append(date)
  return found, max(dates)


def earlier(text: str) -> dict[tuple[str, ...], bool]:
  """What a page says of cells in which all scores that can be have passed."""
  found, law, patterns = {}, None, []
  for line in text.splitlines():
    if line.startswith('## '):
      name = line[3:].strip('`')
      law = ('attend', name) if name in grid.KERNELS else None
      if name == 'Whole models':
        law = ('read',)
      if name.startswith('Memory by '):
        law = ('remember', name.removeprefix('Memory by '))
    if law and law[0] == 'remember':
      found |= _pairs(line, law, patterns)
    if law and line.startswith('| |'):
      patterns = line[3:].strip(' |').split(' | ')
    if law and law[0] == 'remember':
      continue
    position, *entries = line.strip('| ').split(' | ')
    if law is None or position not in grid.POSITIONS:
      continue
    for pattern, entry in zip(patterns, entries, strict=True):
      cells = [(position, pattern, score) for score in grid.SCORES]
      kernels = law[1:] or grid.KERNELS
      cells = [
        cell
        for cell in cells
        if pattern in grid.PATTERNS
        and not all(grid.empty(*cell, kernel) for kernel in kernels)
      ]
      if entry.rstrip(string.ascii_lowercase) == str(len(cells)):
        found |= {(law[0], *cell, *law[1:]): True for cell in cells}
  return found


def _pairs(line, law, others) -> dict:
  """Of a line that tells of a memory: what passed, and can still be."""
  memory, *entries = line.strip('| ').split(' | ')
  if memory not in grid.MEMORIES:
    return {}
  passed = [x for x, sign in zip(others, entries, strict=True) if sign == '+']
  able = [x for x in passed if not _reason(law[1], x, memory)]
  return {(*law, other, memory): True for other in able}


def _reason(axis, name, memory) -> str | None:
  """Why a position or a pattern never meets a memory, or None."""
  parts = {'position': 'none', 'pattern': 'causal', axis: name}
  return grid.empty_memory(*parts.values(), memory)


def _outcomes(path):
  found, suite = {}, ElementTree.parse(path).getroot().find('testsuite')
  for case in suite.iter('testcase'):
    kind = case.get('classname').rpartition('.')[2]
    if kind not in ('test_grid', 'test_memory_grid'):
      continue
    name, cell = re.fullmatch(r'(\w+)\[(.*)\]', case.get('name')).groups()
    bad = case.find('failure') is not None or case.find('error') is not None
    if case.find('skipped') is not None:
      continue
    if kind == 'test_memory_grid':
      for axis, part, memory in grid.met(cell.split(' | ')):
        key = ('remember', [*AXES][axis], part, memory)
        found[key] = found.get(key, True) and not bad
    else:
      parts = tuple(cell.split(' | '))  # of models, the kernel is no matter
      key = ('attend', *parts) if 'attend' in name else ('read', *parts[:3])
      found[key] = not bad
  return found, suite.get('timestamp')[:10]


def remembered(axis: str, letters: dict, found: dict) -> str:
  """One line a memory; a cell says whether all that ran of a pair passed."""
  lines = ['| | ' + ' | '.join(AXES[axis]) + ' |']
  lines.append('|---' * (1 + len(AXES[axis])) + '|')
  for memory in grid.MEMORIES:
    entries = []
    for name in AXES[axis]:
      reason = _reason(axis, name, memory)
      sign = SIGNS[found.get(('remember', axis, name, memory))]
      entries.append(letters[reason] if reason else sign)
    lines.append(f'| {memory} | ' + ' | '.join(entries) + ' |')
  return '\n'.join(lines) + '\n'


def helped(books: list[dict], recall: list[dict]) -> str:
  """One line a memory: its verdict on text, gains, and how far it recalls."""
  lines = ['| ' + ' | '.join(HELPS_COLUMNS) + ' |']
  lines.append('|---' * len(HELPS_COLUMNS) + '|')
  models = [x['model'] for x in books if x['ways']]
  for name in dict.fromkeys([*models, *(x['memory'] for x in recall)]):
    held = [learning.held(x) for x in recall if x['memory'] == name]
    entries = ['', '', '']
    if found := [x for x in books if x['model'] == name and x['ways']]:
      rivals = [books_report.rival(x, books) for x in found]
      far = [books_report.of_way(x, '2 beyond') for x in found]
      over = [books_report.over(*pair) or '' for pair in zip(found, rivals)]
      entries = [
        books_report.decided(name, books) or 'its window is missing',
        '; '.join(map(str, far)),
        '; '.join(map(str, over)),
      ]
    entries.append(str(statistics.median_low(held)) if held else '')
    lines.append(f'| {name} | ' + ' | '.join(map(str, entries)) + ' |')
  return '\n'.join(lines) + '\n'


def table(state) -> str:
  """One line a position; `state(position, pattern, score)` of each cell."""
  lines = ['| | ' + ' | '.join(grid.PATTERNS) + ' |']
  lines.append('|---' * (1 + len(grid.PATTERNS)) + '|')
  for position in grid.POSITIONS:
    entries = []
    for pattern in grid.PATTERNS:
      states = [state(position, pattern, score) for score in grid.SCORES]
      passed, rest = states.count('+'), sorted({*states} - {'+'})
      entries.append(f'{passed or ""}{"".join(rest)}')
    lines.append(f'| {position} | ' + ' | '.join(entries) + ' |')
  return '\n'.join(lines) + '\n'


def page(found: dict, date: str, where: str) -> str:
  letters = {}
  for position, pattern, score, kernel in grid.cells():
    reason = grid.empty(position, pattern, score, kernel)
    if reason:
      letters.setdefault(reason, chr(ord('a') + len(letters)))

  for memory in grid.MEMORIES:
    for axis, names in AXES.items():
      for name in names:
        if reason := _reason(axis, name, memory):
          letters.setdefault(reason, chr(ord('a') + len(letters)))

  def attends(kernel):
    def state(*parts):
      reason = grid.empty(*parts, kernel)
      outcome = found.get(('attend', *parts, kernel))
      return letters[reason] if reason else SIGNS[outcome]

    return state

  def reads(*parts):
    reasons = [grid.empty(*parts, kernel) for kernel in grid.KERNELS]
    if all(reasons):
      return letters[reasons[0]]
    return SIGNS[found.get(('read', *parts))]

  counts = collections.Counter(found.values())
  text = HEAD.format(
    date=date,
    where=where,
    passed=counts[True],
    failed=counts[False],
    left=len(grid.full()) + len(grid.models()) + _pairs_of_all() - len(found),
    scores=len(grid.SCORES),
    names='; '.join(grid.SCORES),
    several='; '.join(grid.SEVERAL),
    reasons='\n'.join(f'- {x}: {reason}' for reason, x in letters.items()),
  )
  for kernel in grid.KERNELS:
    text += KERNEL.format(name=f'`{kernel}`')
    text += table(attends(kernel))
  text += READ + table(reads)
  recall = timing.known(MEASURED / 'learning.jsonl')
  books = timing.known(MEASURED / 'books.jsonl')
  seeds = collections.Counter(x['memory'] for x in recall).values()
  text += HELPS.format(
    trained=max(learning.GAPS),
    asked=max(learning.BEYOND),
    seeds=' to '.join(map(str, sorted({min(seeds), max(seeds)}))),
  )
  text += helped(books, recall)
  for axis in AXES:
    (other,) = {*AXES} - {axis}
    text += REMEMBER.format(axis=axis, other=other)
    text += remembered(axis, letters, found)
  return text


def _pairs_of_all() -> int:
  cells = grid.memory_cells()
  return sum(len({(c[i], c[2]) for c in cells}) for i in range(len(AXES)))


if __name__ == '__main__':
  found, date = outcomes(sys.argv[2:])
  before = earlier(PAGE.read_text()) if PAGE.exists() else {}
  PAGE.write_text(page(before | found, date, sys.argv[1]))
  print(f'wrote {PAGE}')

"""How things are timed, shown and saved: what every benchmark shares."""

import dataclasses
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from lctx import command
from lctx.errors import UserError


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds of one call: medians over rounds.

  `cpu` counts all threads of this process, those of XLA included: on a CPU
  that others use too it says more than `wall`, which includes their share.
  """

  wall: float
  cpu: float


def run(main: Callable[[], None], required: Sequence = ()) -> None:
  """A benchmark's command line, of its own flags and no part of a config."""

  def alone(overrides: command.Overrides) -> None:
    if overrides:
      raise UserError(
        f'benchmarks.{Path(sys.argv[0]).stem} takes no --config.NAME=VALUE: '
        'what it measures is fixed. --help lists its flags.'
      )
    main()

  command.run(alone, required=required)


def interleaved(
  calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, Timing]:
  """Times the calls in turns, A B A B, so that a slow spell meets them all.

  Each is called once before, for what only a first call does, and is done when
  all that it returns is computed.
  """
  for call in calls.values():
    jax.block_until_ready(call())
  found: dict[str, list[Timing]] = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      found[name].append(timed(call))
  return {
    name: Timing(
      statistics.median(timing.wall for timing in timings),
      statistics.median(timing.cpu for timing in timings),
    )
    for name, timings in found.items()
  }


def timed(call: Callable[[], object]) -> Timing:
  """One call."""
  wall, cpu = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def machine() -> dict[str, object]:
  """Where and when this was measured."""
  device = jax.devices()[0]
  return {
    'device': f'{device.platform}: {device.device_kind}',
    'devices': jax.device_count(),
    'processor': _processor(),
    'cores': os.cpu_count(),
    'load': [round(load, 2) for load in os.getloadavg()],
    'system': platform.platform(),
    'python': platform.python_version(),
    'jax': jax.__version__,
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def heading(about: Mapping[str, object]) -> str:
  """`machine()` in two lines."""
  return (
    f'1 of {about["devices"]} x {about["device"]}, {about["cores"]} cores of '
    f'{about["processor"]}\njax {about["jax"]}, {about["date"]}, load before '
    f'{about["load"][0]} (runs share the cores where it is above 0)'
  )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
  """Aligned text: the first column to the left, the others to the right.

  None is a dash; a float has three digits that count, or none after the point.
  """
  lines = [list(columns), *([_cell(value) for value in row] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  aligned = [
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  ]
  rule = '  '.join('-' * width for width in widths)
  return '\n'.join([aligned[0], rule, *aligned[1:]])


def save_json(found: Mapping[str, object], path: str) -> None:
  """Writes what was found; `path` '' writes nothing."""
  if path:
    Path(path).write_text(json.dumps(found, indent=2) + '\n')
    print(f'\nwrote {path}')


def known(path: str | Path, **settings) -> list[dict]:
  """What a file holds already, a line a run; nothing of one not there.

  Raises UserError where a run had other settings than these.
  """
  lines = Path(path).read_text().splitlines() if Path(path).is_file() else []
  found = [json.loads(line) for line in lines]
  for name, value in settings.items():
    if others := {x.get(name) for x in found} - {value}:
      there = ', '.join(sorted(map(str, others)))
      raise UserError(
        f'{path} holds runs of {name} = {there}, and these would be of '
        f'{value}. Give another --results.'
      )
  return found


def append_json(found: Mapping[str, object], path: str) -> None:
  """Adds a run to a file; `path` '' writes nothing."""
  if path:
    with open(path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(found) + '\n')


def _cell(value: object) -> str:
  if value is None:
    return '-'
  if not isinstance(value, float):
    return f'{value:,}' if isinstance(value, int) else str(value)
  return f'{value:,.0f}' if abs(value) >= 100 else f'{value:#.3g}'.rstrip('.')


def _processor() -> str:
  """The model of the processor, where Linux says it."""
  path = Path('/proc/cpuinfo')
  lines = path.read_text().splitlines() if path.is_file() else []
  names = [x.partition(':')[2].strip() for x in lines if 'model name' in x]
  return names[0] if names else platform.processor() or platform.machine()

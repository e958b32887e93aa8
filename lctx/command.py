"""The command line: flags in; for a mistake, one paragraph and code 2.

A run that cannot go on ends with one paragraph too, and code 1.

Every `--config.a.b=value` is taken out before absl parses the rest, for
fields of a config are not flags.
"""

import contextlib
import difflib
import logging
import re
import sys
from collections.abc import Callable, Sequence

from absl import app, flags
from absl import logging as absl_logging

from lctx.errors import RunError, UserError

Overrides = dict[str, str | bool]


def run(
  main: Callable[[Overrides], None],
  required: Sequence[flags.FlagHolder] = (),
  load: Callable[[str], object] = lambda path: None,
) -> None:
  """Parses the flags, calls `main(overrides)` and ends the process.

  `load` is what reads a config file by itself: it says in one paragraph what
  ml_collections' flag says in a traceback.
  """
  overrides: Overrides = {}

  def parse(argv: Sequence[str]) -> list[str]:
    found, rest = take_overrides(argv)
    rest = [x for x in rest if not re.fullmatch(r'--?config=', x)]  # missing
    overrides.update(found)
    with _explained(rest, load):
      return _parse_flags(rest, required)

  def begin(_: Sequence[str]) -> None:
    _show_messages()
    main(overrides)

  try:
    app.run(begin, flags_parser=parse)
  except (UserError, RunError) as error:
    print(f'lctx: error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2 if isinstance(error, UserError) else 1)
  except KeyboardInterrupt:
    sys.exit(130)  # as the shell counts Ctrl-C


@contextlib.contextmanager
def _explained(argv: Sequence[str], load: Callable[[str], object]):
  """Reads the config file again if it could not be read: for the reason."""
  try:
    yield
  except Exception:
    for name, path in zip(argv, [*argv[1:], '']):
      if re.match(r'--?config=', name):
        load(name.partition('=')[2])
      elif name in ('-config', '--config'):
        load(path)
    raise


def _show_messages() -> None:
  """Ours from INFO on, as plain lines; other libraries' from WARNING on."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter('%(message)s'))
  ours = logging.getLogger('lctx')
  ours.addHandler(handler)
  ours.setLevel(logging.INFO)
  ours.propagate = False


def take_overrides(argv: Sequence[str]) -> tuple[Overrides, list[str]]:
  """The overrides in `argv`, {dotted path: text}, and all other arguments.

  `--config.a=b`, `--config.a b`, and for bools `--config.a`, `--noconfig.a`.
  A bare flag is True or False, so that a forgotten value is not taken for
  text. The last of two for the same field counts.
  """
  overrides, rest, waiting = {}, [], list(argv)
  while waiting:
    argument = waiting.pop(0)
    name, equals, text = argument.partition('=')
    match = re.fullmatch(r'--?(no)?config\.(.*)', name)
    if match is None:
      rest.append(argument)
      continue
    no, path = match.groups()
    if no and equals:
      raise UserError(
        f'{argument} says no and gives a value. Write --noconfig.{path} or '
        f'--config.{path}={text}.'
      )
    if not no and not equals and waiting and not _is_flag(waiting[0]):
      equals, text = '=', waiting.pop(0)
    overrides[path] = text if equals else not no
  return overrides, rest


def _is_flag(argument: str) -> bool:
  return re.match(r'--?[a-zA-Z]|--$', argument) is not None


def _parse_flags(argv, required):
  try:
    program, *unknown = flags.FLAGS(argv, known_only=True)
  except flags.Error as error:
    raise UserError(f'{str(error).rstrip(".")}. Try --help.') from error
  if unknown:
    raise UserError(_about_unknown(unknown[0]))
  if 'config' in flags.FLAGS:  # a file that is missing raises only when used
    getattr(flags.FLAGS['config'].value, 'use', None)
  for flag in required:
    if flag.value in (None, ''):
      about = flags.FLAGS[flag.name].help
      raise UserError(f'--{flag.name}=... is missing: {about}')
  return [program]


def _about_unknown(argument: str) -> str:
  named = re.match(r'--?(?:no)?([^=]*)', argument)
  if named is None:
    return (
      f'{argument!r} is not a flag. Values of the config are given as '
      '--config.NAME=VALUE, all else as --FLAG=VALUE.'
    )
  key_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
  ours = [*(flag.name for flag in key_flags), 'help']
  first, dot, path = named[1].partition('.')
  if dot:
    path = path if _near(first, ['config']) else named[1]
    meant = f' Did you mean --config.{path}?'
  else:
    near = _near(named[1], ours)
    meant = f' Did you mean --{near[0]}?' if near else ''
  return (
    f'--{named[1]} is no flag of this program.{meant} Its flags are '
    f'{", ".join(f"--{name}" for name in ours)}, and --config.NAME=VALUE for '
    'every field of the config.'
  )


def _near(name, names):
  return difflib.get_close_matches(name, names, n=1, cutoff=0.5)

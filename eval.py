"""Evaluates a trained model, at any segment and memory length.

python eval.py --workdir=DIR [--checkpoint=best] [--config.eval.NAME=VALUE ...]
"""

from absl import flags

import lctx
from lctx import command, config

WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'The folder that train.py was given. Its config is used; '
  '--config.NAME=VALUE sets any of its fields, as --config.eval.segment=64.',
)
CHECKPOINT = flags.DEFINE_string(
  'checkpoint', 'best', "'best', 'latest' or the number of a step."
)


def main(overrides: command.Overrides) -> None:
  changed = config.read(WORKDIR.value, overrides)
  for name in overrides:
    if not f'{name}.'.startswith(('eval.', 'data.corpus.', 'data.folder.')):
      raise lctx.UserError(
        f'--config.{name} was decided in training, so it has no effect here. '
        'Set --config.eval.*, --config.data.corpus.* or --config.data.folder.'
      )
  lctx.evaluate(WORKDIR.value, config=changed, checkpoint=CHECKPOINT.value)


if __name__ == '__main__':
  command.run(main, required=[WORKDIR])

"""Trains a language model, or goes on where the same command stopped.

python train.py --config=FILE[:arg] --workdir=DIR [--config.NAME=VALUE ...]
"""

from absl import flags
from ml_collections import config_flags

import lctx
from lctx import command, config

CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'A Python file that defines get_config(arg=None); FILE:arg passes arg. '
  '--config.NAME=VALUE sets any of its fields, as --config.data.rows=8.',
  lock_config=False,
  sys_argv=[],  # overrides of a Config are ours
)
WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'The folder for checkpoints and logs; a run that was stopped there goes on.',
)


def main(overrides: command.Overrides) -> None:
  lctx.train(config.changed(CONFIG.value, overrides), WORKDIR.value)


if __name__ == '__main__':
  command.run(main, required=[CONFIG, WORKDIR], load=config.load)

"""What parameters are before the first step: drawn, or a published model's."""

import dataclasses
import logging

import jax
from flax import traverse_util

from lctx.interop import hugging_face
from lctx.interop.find import folder_of
from lctx.interop.tables import listed
from lctx.models.answering import Answering
from lctx.models.encoder_decoder import EncoderDecoder
from lctx.types import Params

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Beginning:
  """`checkpoint`: a folder, or a model of the Hugging Face hub; '' = drawn.

  The model of the config must have its parameters; what has none of its own may
  differ, such as a stretch of its positions. `partial`: what the checkpoint has
  not, such as a memory's, is drawn, and told.
  """

  checkpoint: str = ''
  partial: bool = False

  def __post_init__(self):
    if self.partial and not self.checkpoint:
      raise ValueError(
        'init.partial = true fills what a checkpoint has not, but '
        'init.checkpoint names none. Name one, or leave partial off.'
      )

  def params(self, model: Answering | EncoderDecoder, seed: int) -> Params:
    """Those of the checkpoint.

    Raises ValueError where they do not fit the model; the first few listed.
    """
    found = hugging_face.load(folder_of(self.checkpoint)).params
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    have, want = (traverse_util.flatten_dict(x) for x in (found, shapes))
    missing = ['/'.join(path) for path in sorted({*want} - {*have})]
    problems = [
      f'{"/".join(x)} is unexpected' for x in sorted({*have} - {*want})
    ]
    if not self.partial:
      problems += [f'{name} is missing' for name in missing]
    problems += [
      f'{"/".join(path)} has shape {have[path].shape}, the model needs '
      f'{want[path].shape}'
      for path in sorted({*have} & {*want})
      if have[path].shape != want[path].shape
    ]
    if problems:
      raise ValueError(
        f'init.checkpoint = {self.checkpoint} does not fit the model: '
        f'{listed(problems)}. Give the model the sizes and parts that the '
        'weights were made with, or set init.partial=true for parameters that '
        'are new.'
      )
    if not missing:
      return found
    _log.warning(f'init.checkpoint has not, and so drawn are {listed(missing)}')
    drawn = traverse_util.flatten_dict(model.init_params(jax.random.key(seed)))
    return traverse_util.unflatten_dict({**drawn, **have})

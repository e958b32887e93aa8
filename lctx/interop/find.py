"""Where a published model lies: a local folder, or the Hugging Face hub."""

import json
import re
from pathlib import Path

FILES = '*.json', '*.safetensors', '*.model', '*.txt'  # never a pickle


def is_published(folder: Path) -> bool:
  """Whether it has a `config.json` of Hugging Face's libraries."""
  try:
    found = json.loads((folder / 'config.json').read_text())
  except (OSError, ValueError):
    return False
  known = 'architectures', 'model_type'
  return isinstance(found, dict) and any(name in found for name in known)


def folder_of(name: str | Path) -> Path:
  """The folder of that name, or of a model `owner/name` of the hub.

  What the hub has is kept in its own cache, and not fetched twice.

  Raises:
    ValueError: no such folder, and no model of the hub that can be fetched.
  """
  folder = Path(name).expanduser()
  if folder.is_dir():
    return folder
  local = folder.parent != Path() and folder.parent.is_dir()
  if local or not re.fullmatch(r'[\w.-]+/[\w.-]+', str(name)):
    raise ValueError(
      f'There is no folder {str(name)!r}, and the name is none of the Hugging '
      'Face hub, where they are like owner/name. Give one of both.'
    )
  try:
    import huggingface_hub
  except ImportError as error:
    raise ValueError(
      f'There is no folder {str(name)!r}, and what fetches models from the '
      "Hugging Face hub is not installed. Install it: pip install 'lctx[hf]'."
    ) from error
  try:
    found = huggingface_hub.snapshot_download(
      str(name), allow_patterns=list(FILES)
    )
  except (OSError, ValueError) as error:  # all of the hub's errors are either
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'There is no folder {str(name)!r}, and the Hugging Face hub does not '
      f'give such a model: {reason:.300}. Give the path of a folder, or see '
      'whether the name is right and the hub is reached.'
    ) from error
  return Path(found)

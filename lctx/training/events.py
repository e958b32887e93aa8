"""TensorBoard's event files, without TensorFlow.

The package's own EventFileWriter imports TensorFlow wherever it is installed,
and writes from a thread; the record and its protocol buffers need neither.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventFile:
  """Scalars under their names; strings and the config as text."""

  def __init__(self, folder: Path, step: int, config: str):
    """Points beyond `step`, of a run that was killed, are no longer drawn."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    self._events = event_pb2
    self._file = (folder / _file_name()).open('xb')
    self._records = RecordWriter(self._file)
    self._add(file_version='brain.Event:2')
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(session_log=start, step=step + 1)
    self._add(summary=_summary({'config': f'```\n{config}\n```'}), step=step)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    self._add(summary=_summary(values), step=step)

  def close(self) -> None:
    self._records.close()

  def _add(self, **fields) -> None:
    event = self._events.Event(wall_time=time.time(), **fields)
    self._records.write(event.SerializeToString())
    self._records.flush()


def _file_name() -> str:
  # TensorBoard reads the files of a run in the order of their names.
  seconds, rest = divmod(time.time_ns(), 10**9)
  return (
    f'events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}'
    f'.{rest:09d}'
  )


def _summary(values):
  from tensorboard.compat.proto import summary_pb2

  return summary_pb2.Summary(
    value=[
      _text(name, value)
      if isinstance(value, str)
      else summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
    ]
  )


def _text(name, text):
  from tensorboard.compat.proto import (
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
  )

  one = tensor_shape_pb2.TensorShapeProto.Dim(size=1)
  return summary_pb2.Summary.Value(
    tag=name,
    metadata=summary_pb2.SummaryMetadata(
      plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name='text')
    ),
    tensor=tensor_pb2.TensorProto(
      dtype=types_pb2.DT_STRING,
      tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[one]),
      string_val=[text.encode()],
    ),
  )

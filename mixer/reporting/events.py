"""The events of a run for TensorBoard: those of each step once, also after a resume."""

import os
import pathlib
import time
from typing import Any

from etils import epath

_OURS = "mixer"  # in the first event of each file that a run writes


def open_events(workdir: epath.Path, first_step: int) -> Any:
    """Returns TensorBoard's writer of scalars for a run that starts or resumes at a step.

    Drops the events of later steps from the files of the run, as those steps are taken again. Files
    in a bucket keep them, and TensorBoard skips them.
    """
    # They import TensorFlow, which modules outside mixer.data do only when they need it. (clu's
    # writer imports Keras as well, which takes a second.)
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.summary import Writer

    if "://" not in os.fspath(workdir):
        for path in sorted(pathlib.Path(workdir).glob("events.out.tfevents.*")):
            _drop_later(path, first_step)
    writer = Writer(os.fspath(workdir))
    log = SessionLog(status=SessionLog.START, msg=_OURS)
    event = Event(wall_time=time.time(), step=first_step + 1, session_log=log)
    writer._output._ev_writer.add_event(event)  # there is no method for it
    return writer


def _drop_later(path: pathlib.Path, last_step: int) -> None:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    try:
        records = list(RawEventFileLoader(str(path)).Load())
        events = [Event.FromString(record) for record in records]
    except Exception:  # of several types; no file of ours, then
        return
    is_ours = len(events) > 1 and events[1].session_log.msg == _OURS
    kept = [
        record
        for record, event in zip(records, events, strict=True)
        if event.step <= last_step or event.HasField("session_log")
    ]
    if not is_ours or len(kept) == len(records):
        return
    temporary = path.with_name(f"tmp.{path.name}")
    with temporary.open("wb") as file:
        writer = RecordWriter(file)
        for record in kept:
            writer.write(record)
    temporary.replace(path)

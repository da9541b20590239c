"""metrics.jsonl and the TensorBoard events."""

import json
import resource
from typing import Any

import pytest
from etils import epath

from mixer.reporting.metrics import MetricsWriter, read_metrics
from mixer.reporting.pictures import draw_curves


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> epath.Path:
    """A path in gs:// that TensorFlow's file layer looks up in its in-memory file system."""
    import tensorflow as tf
    from tensorboard import summary

    class Gfile:
        def __getattr__(self, name: str) -> Any:
            call = getattr(tf.io.gfile, name)
            return lambda *paths, **options: call(*map(in_memory, paths), **options)

    def in_memory(path: str) -> str:
        return path.replace("gs://", "ram://")

    write_events = summary.Writer
    monkeypatch.setattr(type(epath.backend.tf_backend), "gfile", Gfile())
    monkeypatch.setattr(summary, "Writer", lambda path: write_events(in_memory(path)))
    path = epath.Path("gs://bucket/run")
    path.mkdir(parents=True)
    return path


def test_lines_are_on_disk_at_once_and_in_tensorboard(tmp_path):
    writer = MetricsWriter(tmp_path, first_step=0, active=True)
    writer.write(2, {"loss": 0.5})
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 0.5}]
    writer.close()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    assert "loss" in events.Tags()["tensors"]
    assert events.Tensors("loss")[0].step == 2
    assert make_ndarray(events.Tensors("loss")[0].tensor_proto) == 0.5


def test_a_resumed_run_drops_what_comes_again_and_a_line_cut_short(tmp_path):
    lines = [json.dumps({"step": step, "loss": step / 10}) for step in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo')
    MetricsWriter(tmp_path, first_step=4, active=True).close()
    assert read_metrics(tmp_path) == [{"step": 2, "loss": 0.2}, {"step": 4, "loss": 0.4}]


def test_a_full_disk_names_the_file(tmp_path):
    lines = [json.dumps({"step": step, "loss": step / 10}) + "\n" for step in range(5000)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(lines))
    writer = MetricsWriter(tmp_path, first_step=5000, active=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{path}'"):
            writer.write(5001, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.close()
    assert read_metrics(tmp_path)[4999] == {"step": 4999, "loss": 499.9}


def test_events_of_others_are_left_alone(tmp_path):
    for name, data in (
        ("events.out.tfevents.1.a", b"not events"),
        ("events.out.tfevents.2.b", b""),
    ):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "events.out.tfevents.3.c").mkdir()
    SummaryWriter = pytest.importorskip("tensorboard.summary").Writer
    other = SummaryWriter(str(tmp_path))
    for step in (1, 5):
        other.add_scalar("theirs", 0.5, step)
    other.close()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("e*") if path.is_file()}
    for first_step in (0, 2):
        writer = MetricsWriter(tmp_path, first_step=first_step, active=True)
        for step in (first_step + 1, first_step + 3):
            writer.write(step, {"loss": step / 10})
        writer.close()
    now = {path.name: path.read_bytes() for path in tmp_path.glob("e*") if path.is_file()}
    assert {name: now[name] for name in before} == before
    # The name ends with the time and a number that counts up.
    first, second = sorted(now.keys() - before.keys(), key=lambda name: int(name.split(".")[-1]))
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    def steps(name: str) -> list[int]:
        events = EventFileLoader(str(tmp_path / name)).Load()
        return [event.step for event in events if event.summary.value]

    assert (steps(first), steps(second)) == ([1], [3, 5])


def test_only_the_active_process_writes(tmp_path):
    writer = MetricsWriter(tmp_path, first_step=0, active=False)
    writer.write(1, {"loss": 0.5})
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_is_written_like_a_folder(bucket):
    assert read_metrics(bucket) == []
    writer = MetricsWriter(bucket, first_step=0, active=True)
    for step in (2, 4):
        writer.write(step, {"loss": step / 10})
        assert read_metrics(bucket)[-1] == {"step": step, "loss": step / 10}, "there at once"
    writer.close()
    writer = MetricsWriter(bucket, first_step=2, active=True)
    writer.write(3, {"loss": 0.3})
    writer.close()
    lines = [{"step": 2, "loss": 0.2}, {"step": 3, "loss": 0.3}]
    assert read_metrics(bucket) == lines
    assert read_metrics(bucket, last_step=2) == lines[:1]
    draw_curves(bucket)
    assert (bucket / "curves.png").read_bytes().startswith(b"\x89PNG")
    names = sorted(path.name.partition(".tfevents")[0] for path in bucket.iterdir())
    assert names == ["curves.png", "events.out", "events.out", "metrics.jsonl"]

"""metrics.jsonl and the TensorBoard events."""

import json

from mixer.metrics import MetricsWriter, read_metrics


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


def test_only_the_active_process_writes(tmp_path):
    writer = MetricsWriter(tmp_path, first_step=0, active=False)
    writer.write(1, {"loss": 0.5})
    writer.close()
    assert list(tmp_path.iterdir()) == []

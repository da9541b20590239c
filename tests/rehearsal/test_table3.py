"""Table 3's throughput: how the estimates are kept and compared, and what was recorded."""

import json
import pathlib

import pytest

from mixer.rehearsal import table3

ROOT = pathlib.Path(__file__).parent.parent.parent
RECORDS = ROOT / "docs/table3_throughput.jsonl"


def record(model: str, batch: int, speed: float | None, image_size: int = 224) -> dict:
    found = {"model": model, "image_size": image_size, "topology": "v3-8", "batch_per_core": batch}
    fits = {"fits": True, "images_per_s_per_core": speed} if speed else {"fits": False}
    return {**found, **fits}


def test_the_paper_has_one_speed_for_each_model_and_size():
    paper = table3.paper_throughput()
    assert len(paper) == 17
    assert paper["ViT-L/16", 512] == 32
    assert paper["BiT-R200x3", 224] == 141
    assert len(set(paper.values())) == 17  # no ties: ranks are unique


def test_an_interrupted_run_compiles_what_its_file_lacks(tmp_path, monkeypatch):
    asked = []

    def rehearse(model, image_size, topology, batch):
        asked.append((model.patch_size, image_size, topology, batch))
        return {"fits": batch < 9, "images_per_s_per_core": 2.0 * batch, "compile_s": 1.0}

    paper = {("Mixer-B/16", 224): 20, ("ViT-B/32", 512): 10}
    monkeypatch.setattr(table3, "paper_throughput", lambda: paper)
    monkeypatch.setattr(table3, "rehearse_forward_pass", rehearse)
    monkeypatch.setattr(table3, "_version", lambda package: "1.2")
    path = tmp_path / "records.jsonl"
    run = table3.rehearse_table3(path, "v3-8", [8, 9])
    first = [next(run), next(run), next(run)]
    run.close()
    assert asked == [(16, 224, "v3-8", 8), (16, 224, "v3-8", 9), (32, 512, "v3-8", 8)]
    assert table3.read_records(path) == first
    assert first[0]["images_per_s_per_core"] == 16.0
    assert first[0]["software"] == "jax 1.2, libtpu 1.2"
    assert "compile_s" not in first[0]
    (last,) = table3.rehearse_table3(path, "v3-8", [8, 9])
    assert asked[3:] == [(32, 512, "v3-8", 9)]
    assert table3.read_records(path) == [*first, last]
    assert list(table3.rehearse_table3(path, "v3-8", [8])) == []


@pytest.mark.parametrize("line", ['{"model": "ViT-B/16", "image', "7", '{"model": "ViT-B/16"}'])
def test_a_line_that_is_no_record_is_refused(tmp_path, line):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record("ViT-B/16", 8, 1.0)) + "\n" + line)
    with pytest.raises(ValueError, match=r"records.jsonl to hold records.*line 2\. Delete that"):
        next(table3.rehearse_table3(path, "v3-8", [8]))


def test_the_fastest_batch_counts_and_ranks_are_correlated():
    records = [
        record("ViT-L/16", 64, 40.0),
        record("Mixer-B/16", 32, 90.0),
        record("Mixer-B/16", 64, 100.0),
        record("ViT-B/16", 32, 30.0),
        record("ViT-B/16", 64, None),
        record("ViT-H/14", 64, None),
    ]
    best = table3.best_records(records)
    found = [(r["model"], r["images_per_s_per_core"], r["paper"]) for r in best]
    assert found == [("Mixer-B/16", 100, 1384), ("ViT-B/16", 30, 861), ("ViT-L/16", 40, 280)]
    # Ranks 2 0 1 and 2 1 0: 1 - 6 (0 + 1 + 1) / (3 (9 - 1))
    assert table3.rank_correlation(best) == pytest.approx(0.5)


def test_the_recorded_order_is_that_of_the_paper():
    records = table3.read_records(RECORDS)
    best = table3.best_records([r for r in records if r["topology"] == "v3-8"])
    assert [(row["model"], row["image_size"]) for row in best] == list(table3.paper_throughput())
    assert table3.rank_correlation(best) >= 0.95
    speed = {(row["model"], row["image_size"]): row["images_per_s_per_core"] for row in best}
    ratio = speed["Mixer-B/16", 224] / speed["ViT-B/16", 224]
    assert ratio == pytest.approx(1384 / 861, rel=0.2)
    ratio = speed["Mixer-L/16", 224] / speed["ViT-L/16", 224]
    assert ratio == pytest.approx(419 / 280, rel=0.2)

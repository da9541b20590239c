"""The comparison of the input pipeline with a classic one, over photos."""

import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from mixer.benchmark.input import measure_input
from mixer.data.datasets import open_dataset


@pytest.mark.slow
def test_every_recipe_is_measured(tmp_path):
    folder = tmp_path / "train" / "photo"
    folder.mkdir(parents=True)
    photo = Image.fromarray(load_sample_image("china.jpg"))
    for number in range(8):
        photo.save(folder / f"{number}.jpg", quality=50 + number)
    dataset = open_dataset(f"folder:{tmp_path}", "train", "")
    rows = measure_input(dataset, image_size=32, batch_size=8, rounds=2, seconds=0.1)
    assert [row["recipe"] for row in rows] == ["crop+flip", "crop+flip+randaugment"]
    for row in rows:
        assert row["ours"] > 10
        assert 0.1 < row["ratio_to_classic_same_ops"] < 10

"""The block of the README that trains, evaluates and predicts in Python runs as it stands."""

import pathlib
import re

import configs.digits

ROOT = pathlib.Path(__file__).parents[2]


def test_the_readme_in_python(
    tmp_path, digits_config, no_pictures, on_one_device, write_image, monkeypatch
):
    (code,) = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    write_image(tmp_path / "photos" / "a.png", "red")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configs.digits, "get_config", lambda: digits_config)  # a short run
    names: dict = {}
    exec(code, names)
    (result,) = names["results"]
    assert (result["count"], result["dataset"], result["split"]) == (364, "digits", "test")
    assert 0.1 < result["top1"] < 1
    assert names["best"][0] in "0123456789"

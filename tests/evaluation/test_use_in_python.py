"""The blocks of the README that train, evaluate and predict in Python run as they stand."""

import pathlib
import re

import configs.digits

ROOT = pathlib.Path(__file__).parents[2]


def test_the_readme_in_python(
    tmp_path, digits_config, no_pictures, on_one_device, write_image, monkeypatch, capsys
):
    use, train = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    write_image(tmp_path / "photo.png", "red")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configs.digits, "get_config", lambda: digits_config)  # a short run
    train, line, evaluate = train.partition("images =")
    names: dict = {}
    exec(train, names)
    capsys.readouterr()
    exec(use, names)
    assert set(eval(capsys.readouterr().out)) < set("0123456789")
    exec(line + evaluate, names)
    (result,) = names["results"]
    assert (result["count"], result["dataset"], result["split"]) == (364, "digits", "test")
    assert 0.1 < result["top1"] < 1

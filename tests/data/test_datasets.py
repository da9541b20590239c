"""Every row of the table of datasets works, on mock data that TFDS makes from its own metadata."""

import dataclasses
import hashlib
import io
import pathlib
import shlex
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from cases import slow_after
from PIL import Image

from mixer.data.datasets import cached, open_dataset
from mixer.data.input_pipeline import EvalInput, TrainInput
from mixer.data.order import ExampleOrder
from mixer.data.preprocess import inception_crop, make_eval_preprocess, make_train_preprocess
from mixer.data.table import DATASETS
from mixer.data.vtab import VTAB_ROWS

# Those of VTAB-1k: test_vtab.py.
MOCKED = sorted(name for name in DATASETS if name != "digits" and name not in VTAB_ROWS)


# The kind of file does not depend on the row: three rows are enough for the second kind.
@pytest.mark.parametrize(
    ("name", "file_format"),
    slow_after(6, [(name, "array_record") for name in MOCKED])
    + slow_after(1, [(name, "tfrecord") for name in ("imagenet2012", "imagenet2012_real")]),
)
def test_every_row_gives_batches(name, file_format, tmp_path, write_mock_dataset):
    write_mock_dataset(name, str(tmp_path), file_format)
    dataset = open_dataset(name, "train", str(tmp_path))
    assert dataset.num_classes == DATASETS[name].num_classes
    assert dataset.labels_per_image == DATASETS[name].max_labels
    assert len(dataset.records) == 6
    train = TrainInput(
        dataset,
        ExampleOrder(6, 4, seed=0),
        make_train_preprocess(
            size=16,
            crop=inception_crop(16, area=(0.05, 1.0)),
            flip=True,
            randaugment_layers=2,
            randaugment_magnitude=15,
        ),
        rows=np.arange(4),
        prefetch=1,
    )
    batch = next(train.from_step(10**9))
    assert batch["images"].shape == (4, 16, 16, 3)
    assert batch["labels"].shape == (4, DATASETS[name].max_labels)
    assert (batch["labels"] < dataset.num_classes).all()
    evaluation = EvalInput(
        dataset,
        make_eval_preprocess(size=16, crop="resmall_crop", resize=18),
        batch_size=4,
        rows=np.arange(4),
        prefetch=1,
        cache=False,
    )
    counted = sum(int((b["labels"] >= 0).any(axis=1).sum()) for b in evaluation.one_pass())
    in_order = dataset.parse(tf.constant(dataset.records.read(np.arange(6))))
    assert counted == int((in_order["labels"].numpy() >= 0).any(axis=1).sum())


def test_sets_of_labels_are_padded_with_minus_one(tmp_path, write_mock_dataset):
    write_mock_dataset("imagenet2012_real", str(tmp_path), "array_record")
    dataset = open_dataset("imagenet2012_real", "train", str(tmp_path))
    labels = dataset.parse(tf.constant(dataset.records.read(np.arange(6))))["labels"].numpy()
    expected = [
        list(e["real_label"])
        for e in tfds.builder_from_directory(tmp_path / "imagenet2012_real/1.0.0").as_data_source(
            "train"
        )
    ]
    # TFDS's random sets can be larger than any of the real ones, which hold nine at most.
    assert [[label for label in row if label >= 0] for row in labels] == [e[:9] for e in expected]
    assert all((np.diff((row >= 0).astype(int)) <= 0).all() for row in labels)  # padded at the end


def test_versions_can_be_named_and_the_newest_is_the_default(tmp_path, write_mock_dataset):
    write_mock_dataset("cifar10", str(tmp_path), "array_record")
    dataset = open_dataset("cifar10:3.0.2", "train", str(tmp_path))
    assert (
        dataset.records.fingerprint()
        == open_dataset("cifar10", "train", str(tmp_path)).records.fingerprint()
    )
    with pytest.raises(ValueError, match=r"found only 3\.0\.2"):
        open_dataset("cifar10:2.0.0", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", r"Unknown dataset 'cifar11'.*Did you mean 'cifar10'"),
        ("imagenet21k", "prepare_dataset.py --images=DIR --name=imagenet21k"),
        ("folder:/nowhere", "/nowhere/train/CLASS.*there is no such folder"),
    ],
)
def test_a_missing_dataset_is_an_error_that_says_how_to_get_it(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_dataset(name, "train", str(tmp_path))


def write_tar(path: pathlib.Path, members: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def write_cifar10(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images per file; their checksum replaces the real one."""
    files = {f"data_batch_{number}.bin": number for number in range(1, 6)} | {"test_batch.bin": 6}
    content = {
        name: b"".join(bytes([i]) + bytes([n]) * 3072 for i in range(10))
        for name, n in files.items()
    }
    content["batches.meta.txt"] = b"\n".join(b"class %d" % label for label in range(10))
    content = {f"cifar-10-batches-bin/{name}": file for name, file in content.items()}
    archive = write_tar(folder / "cifar-10-binary.tar.gz", content)
    builder = tfds.image_classification.Cifar10
    ((url, info),) = builder.url_infos.items()
    checksum = hashlib.sha256(archive).hexdigest()
    info = dataclasses.replace(info, size=len(archive), checksum=checksum)
    monkeypatch.setattr(builder, "url_infos", {url: info})


def write_imagenet(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes of two training images, and one validation image."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "JPEG")
    classes = {}
    for name in ("n01440764", "n01443537"):
        images = {f"{name}_{number}.JPEG": file.getvalue() for number in range(2)}
        classes[f"{name}.tar"] = write_tar(folder / "class.tar", images)
    write_tar(folder / "ILSVRC2012_img_train.tar", classes)
    validation = {"ILSVRC2012_val_00000001.JPEG": file.getvalue()}
    write_tar(folder / "ILSVRC2012_img_val.tar", validation)


@pytest.mark.parametrize(
    ("name", "write_archives", "labels"),
    [
        ("cifar10", write_cifar10, sorted([*range(10)] * 5)),
        ("imagenet2012", write_imagenet, [0, 0, 1, 1]),
    ],
)
def test_the_command_in_the_error_prepares_the_dataset(
    name, write_archives, labels, tmp_path, monkeypatch
):
    data_dir = tmp_path / 'it\'s "data"'  # to be quoted for the shell and for Python
    with pytest.raises(ValueError, match=f"Expected the dataset '{name}' in ") as caught:
        open_dataset(name, "train", str(data_dir))
    message = str(caught.value)
    assert ("put ILSVRC2012_img_train.tar and " in message) == (name == "imagenet2012")
    assert (f"into {data_dir}/downloads/manual, then " in message) == (name == "imagenet2012")
    # TFDS also looks there for files that it would otherwise download.
    (data_dir / "downloads" / "manual").mkdir(parents=True)
    write_archives(data_dir / "downloads" / "manual", monkeypatch)
    python, option, program = shlex.split(message.splitlines()[-1])
    assert (python, option) == ("python", "-c")
    exec(program, {})
    dataset = open_dataset(name, "train", str(data_dir))
    in_order = dataset.parse(tf.constant(dataset.records.read(np.arange(len(labels)))))
    assert len(dataset.records) == len(labels)
    assert sorted(in_order["labels"].numpy()[:, 0].tolist()) == labels
    tfds_info = tfds.builder_from_directory(next(data_dir.glob(f"{name}/*.*.*"))).info
    assert tfds_info.file_format == tfds.core.FileFormat.ARRAY_RECORD


def test_the_command_names_the_config_and_a_format_that_can_be_read_from_a_bucket():
    expected = """tfds.builder("imagenet_v2/matched-frequency", data_dir="ram://data", \
file_format="tfrecord").download_and_prepare()'"""
    with pytest.raises(
        ValueError, match="imagenet_v2/matched-frequency; it is not there"
    ) as caught:
        open_dataset("imagenet_v2", "test", "ram://data")
    assert str(caught.value).endswith(expected)


def test_a_different_class_list_is_refused(tmp_path):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(4, 4, 3)),
            "label": tfds.features.ClassLabel(num_classes=7),
        }
    )
    examples = {"image": np.zeros((2, 4, 4, 3), np.uint8), "label": [0, 1]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=features,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(examples)},
        data_dir=str(tmp_path),
        file_format="array_record",
    )
    with pytest.raises(ValueError, match="Expected 10 classes in .*; its labels have 7"):
        open_dataset("cifar10", "train", str(tmp_path))


def test_random_subsets_are_fixed_nested_and_of_the_right_size(data_dir):
    def read(fraction):
        records = open_dataset("digits", "train", data_dir, fraction=fraction).records
        return list(records.read(np.arange(len(records))))

    three, ten, thirty, everything = (read(fraction) for fraction in (0.03, 0.1, 0.3, 1.0))
    assert [len(part) for part in (three, ten, thirty, everything)] == [43, 143, 430, 1433]
    assert set(three) < set(ten) < set(thirty) < set(everything)
    assert three == read(0.03)
    # Not the first examples on disk, and not in their order.
    positions = [everything.index(example) for example in thirty]
    assert abs(np.mean(positions) - 716) < 60
    assert positions != sorted(positions)
    with pytest.raises(ValueError, match=r"fraction of the data in \(0, 1\]; got 0"):
        read(0.0)


def test_a_cache_holds_the_stripes_of_the_host_and_gives_the_same_bytes(data_dir, capsys):
    dataset = open_dataset("digits", "train", data_dir)
    order = ExampleOrder(1433, 16, seed=0, num_stripes=4)
    rows = np.arange(4, 8)  # the second of four hosts, the second stripe
    in_memory = cached(dataset, "raw", order.examples_of(rows))
    assert "Reading 358 examples" in capsys.readouterr().out
    for step in (0, 1000):
        indices = order.indices(step, rows)
        assert in_memory.records.read(indices) == list(dataset.records.read(indices))
    others = order.indices(0, np.arange(1))  # those that replace damaged ones: from disk
    assert in_memory.records.read(others) == list(dataset.records.read(others))
    assert cached(dataset, "none", order.examples_of(rows)) is dataset
    with pytest.raises(ValueError, match="Unknown cache 'ram'"):
        cached(dataset, "ram", order.examples_of(rows))


def test_a_cache_that_would_not_fit_is_refused(data_dir, monkeypatch):
    dataset = open_dataset("digits", "train", data_dir)
    monkeypatch.setattr(type(dataset.records), "__len__", lambda self: 1)
    monkeypatch.setattr(dataset.records, "num_bytes", lambda: 2**50)
    with pytest.raises(ValueError, match=r"1048576.0 GiB of raw examples .* memory; .* are free"):
        cached(dataset, "raw", np.arange(1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "features.json",
            '{"pythonClassName": "antigravity.X"}',
            "'antigravity.X' is not one",
        ),
        ("features.json", "[" * 100_000, "maximum recursion depth"),
        ("label.labels.txt", "a\n" * 11, "Expected 10 class names in .*digits.*; got 11"),
    ],
)
def test_foreign_metadata_are_refused(name, content, message, data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    (copy / "digits" / "1.0.0" / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        open_dataset("digits", "test", str(copy))

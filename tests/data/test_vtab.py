"""The tasks of VTAB-1k: splits, labels at the edges of their classes, images, missing data."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data.datasets import open_dataset
from mixer.data.features import parser
from mixer.data.label_rules import LABEL_RULES
from mixer.data.overlap import check_distinct, count_shared
from mixer.data.table import DATASETS, find_pieces, num_examples
from mixer.data.vtab import GROUPS, TASKS, find_task
from mixer.data.vtab_mock import COUNTS, mock_split, write_mock_data

NATURAL, SPECIALIZED, STRUCTURED = GROUPS

# task: (group, TFDS name and version, classes, beginning of val200, test, its size), as in the
# public code of the VTAB paper's authors; its sizes are those that TFDS documents.
EXPECTED = {
    "caltech101": (NATURAL, "caltech101:3.0.2", 102, "train 2751", "test 0", 6_084),
    "cifar100": (NATURAL, "cifar100:3.0.2", 100, "train 45000", "test 0", 10_000),
    "dtd": (NATURAL, "dtd:3.0.1", 47, "validation 0", "test 0", 1_880),
    "oxford_flowers102": (
        *(NATURAL, "oxford_flowers102:2.1.1", 102, "validation 0", "test 0", 6_149),
    ),
    "oxford_iiit_pet": (NATURAL, "oxford_iiit_pet:4.0.0", 37, "train 2944", "test 0", 3_669),
    "svhn": (NATURAL, "svhn_cropped:3.1.0", 10, "train 65931", "test 0", 26_032),
    "sun397": (NATURAL, "sun397/tfds:4.0.0", 397, "validation 0", "test 0", 21_750),
    "patch_camelyon": (
        *(SPECIALIZED, "patch_camelyon:2.0.0", 2, "validation 0", "test 0", 32_768),
    ),
    "eurosat": (SPECIALIZED, "eurosat/rgb:2.0.0", 10, "train 16200", "train 21600", 5_400),
    "resisc45": (SPECIALIZED, "resisc45:3.0.0", 45, "train 18900", "train 25200", 6_300),
    "diabetic_retinopathy": (
        *(SPECIALIZED, "diabetic_retinopathy_detection/btgraham-300:3.0.0", 5),
        *("validation 0", "test 0", 42_670),
    ),
    "clevr-count": (STRUCTURED, "clevr:3.1.0", 8, "train 63000", "validation 0", 15_000),
    "clevr-distance": (STRUCTURED, "clevr:3.1.0", 6, "train 63000", "validation 0", 15_000),
    "dmlab": (STRUCTURED, "dmlab:2.0.1", 6, "validation 0", "test 0", 22_735),
    "kitti-distance": (STRUCTURED, "kitti:3.1.0", 4, "validation 0", "test 0", 711),
    "dsprites-xpos": (*(STRUCTURED, "dsprites:2.0.0", 16, "train 589824", "train 663552", 73_728),),
    "dsprites-orientation": (
        *(STRUCTURED, "dsprites:2.0.0", 16, "train 589824", "train 663552", 73_728),
    ),
    "smallnorb-azimuth": (STRUCTURED, "smallnorb:2.0.0", 18, "test 0", "test 12150", 12_150),
    "smallnorb-elevation": (STRUCTURED, "smallnorb:2.0.0", 9, "test 0", "test 12150", 12_150),
}
ONE_PER_GROUP = ("cifar100", "eurosat", "kitti-distance", "dsprites-orientation")
SLOW = [pytest.param(t, marks=pytest.mark.slow) for t in TASKS if t not in ONE_PER_GROUP]


def test_every_task_has_its_data_and_its_group():
    assert list(TASKS) == list(EXPECTED)
    for name, (group, tfds_name, classes, val, test, test_size) in EXPECTED.items():
        task = find_task(name)
        row, dataset = task.row, f"vtab/{name}"
        assert DATASETS[dataset] is row
        assert (task.group, f"{row.tfds_name}:{row.version}") == (group, tfds_name)
        assert row.num_classes == classes
        (train,) = find_pieces(dataset, "train800")
        assert train == ("train", 0, 800)
        for split, expected, size in (("val200", val, 200), ("test", test, test_size)):
            (piece,) = find_pieces(dataset, split)
            assert f"{piece.place} {piece.start}" == expected
            assert num_examples(dataset, split) == piece.end - piece.start == size
        both = find_pieces(dataset, "train800val200")
        assert both == [train, *find_pieces(dataset, "val200")]
        assert num_examples(dataset, "train800val200") == 1_000
    assert [sum(t.group == group for t in TASKS.values()) for group in GROUPS] == [7, 4, 8]


@pytest.mark.parametrize("name", TASKS)
def test_no_image_is_in_two_of_a_tasks_splits(name):
    train, test = (find_pieces(f"vtab/{name}", split) for split in ("train800val200", "test"))
    assert count_shared(train, test) == 0
    check_distinct(train, "train800val200", name)


def test_which_tasks_are_small_and_which_may_be_cropped_and_flipped():
    small = {name for name, task in TASKS.items() if task.is_small}
    assert small == {"cifar100", "svhn", "eurosat", "dsprites-xpos", "dsprites-orientation"}
    kept_whole = {name for name, task in TASKS.items() if not task.may_crop}
    assert kept_whole == {
        *("clevr-count", "clevr-distance", "dmlab", "kitti-distance", "dsprites-xpos"),
    }
    unflipped = {name for name, task in TASKS.items() if not task.may_flip}
    assert unflipped == {"dsprites-xpos", "dsprites-orientation", "smallnorb-azimuth"}


@pytest.mark.parametrize(
    ("dataset", "split", "expected"),
    [
        ("clevr-count", "test", [("validation", 0, 15_000)]),
        ("clevr-count", "test[:10]", [("validation", 0, 10)]),
        ("smallnorb-azimuth", "test[10:20]", [("test", 12_160, 12_170)]),
        ("eurosat", "test[50%:]", [("train", 24_300, 27_000)]),
        ("eurosat", "train800[-8:] + val200[:2]", [("train", 792, 800), ("train", 16200, 16202)]),
        ("eurosat", "train[:5]", [("train", 0, 5)]),
    ],
)
def test_named_splits_can_be_sliced(dataset, split, expected):
    assert find_pieces(f"vtab/{dataset}", split) == expected


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train800val200[:5]", r"Expected 'train800val200' of vtab/dtd as a whole"),
        ("val200[:201]", r"a slice of the 200 examples; got 'val200\[:201\]' of vtab/dtd"),
        ("train900", r"Unknown split of vtab/dtd 'train900'"),
        ("train800+train", "share 800"),
    ],
)
def test_a_split_that_is_none_is_refused(split, message):
    with pytest.raises(ValueError, match=message):
        num_examples("vtab/dtd", split)


def label_of(rule: str, **features: list) -> list[int]:
    """Returns the labels of examples; `objects_size=[[0, 1], []]` is `objects/size` of two."""
    ragged = {
        name.replace("objects_", "objects/"): tf.ragged.constant(
            rows, LABEL_RULES[rule].features[name.replace("objects_", "objects/")],
            ragged_rank=1, row_splits_dtype=tf.int64,
        )
        for name, rows in features.items()
    }  # fmt: skip
    return LABEL_RULES[rule].label(ragged).numpy().tolist()


def test_the_number_of_objects():
    assert label_of("object_count", objects_size=[[0] * 3, [1] * 10, [0, 1] * 3]) == [0, 7, 3]


def triples(*distances: float) -> list[float]:
    """Returns the coordinates of objects at these distances, stored one after another."""
    return [number for distance in distances for number in (500.0, -500.0, distance)]


@pytest.mark.parametrize(
    ("distance", "label"),
    [
        *((0.0, -1), (0.01, 0), (8.0, 0), (8.01, 1), (8.5, 1), (8.51, 2), (9.0, 2), (9.01, 3)),
        *((9.5, 3), (9.51, 4), (10.0, 4), (10.01, 5), (100.0, 5), (100.1, 6)),
    ],
)
def test_the_closest_object_of_clevr(distance, label):
    rows = [triples(distance), triples(distance + 1, distance, distance + 2)]
    assert label_of("closest_object", objects_pixel_coords=rows) == [label, label]


@pytest.mark.parametrize(
    ("distance", "label"),
    [(-100.0, -1), (-99.0, 0), (8.0, 0), (8.1, 1), (20.0, 1), (20.1, 2), (999.0, 2)],
)
def test_the_closest_vehicle_of_kitti(distance, label):
    car, van, truck, pedestrian, tram = 0, 1, 2, 3, 6
    types = [[pedestrian, car, tram], [truck, van], [pedestrian], []]
    locations = [
        triples(distance - 5, distance, distance - 7),  # a pedestrian and a tram are nearer
        triples(distance, distance + 5),
        triples(distance),
        [],
    ]
    found = label_of("closest_vehicle", objects_type=types, objects_location=locations)
    assert found == [label, label, 3, 3]


def test_the_positions_and_orientations_of_dsprites():
    positions = label_of("x_position", label_x_position=[[n] for n in range(32)])
    assert positions == [n // 2 for n in range(32)]
    found = label_of("orientation", label_orientation=[[n] for n in range(40)])
    assert found[:11] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4]
    assert found == [int(n / 2.5) for n in range(40)]
    assert np.bincount(found).tolist() == [3, 2] * 8


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_every_class_of_a_computed_label_has_a_name(rule):
    rows = [task.row for task in TASKS.values() if task.row.label_rule == rule]
    assert {len(LABEL_RULES[rule].class_names)} == {row.num_classes for row in rows}
    assert len({*LABEL_RULES[rule].class_names}) == len(LABEL_RULES[rule].class_names)


def test_names_of_classes_are_those_of_their_members():
    names = LABEL_RULES["orientation"].class_names
    assert (names[0], names[1], names[15]) == ("0 to 2", "3 to 4", "38 to 39")
    assert LABEL_RULES["object_count"].class_names[0] == "3 objects"
    assert LABEL_RULES["closest_vehicle"].class_names == (
        *("up to 8 m", "8 to 20 m", "over 20 m", "no vehicle"),
    )
    assert LABEL_RULES["closest_object"].class_names[4:] == ("9.5 to 10", "over 10")


def example(features: tfds.features.FeaturesDict, **values: object) -> tf.Tensor:
    return tf.constant([features.serialize_example(features.encode_example(values))])


def test_a_distance_that_no_class_has_ends_the_run():
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(2, 2, 3)),
            "objects": tfds.features.Sequence(
                {"pixel_coords": tfds.features.Tensor(shape=(3,), dtype=np.float32)}
            ),
        }
    )
    coordinates = [np.array([1, 2, distance], np.float32) for distance in (200, 101)]
    image = np.zeros((2, 2, 3), np.uint8)
    far = example(features, image=image, objects={"pixel_coords": coordinates})
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected labels from 0 to 5"):
        parser(TASKS["clevr-distance"].row)(far)


def test_the_images_of_dsprites_are_black_and_white():
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(2, 2, 1)),
            "label_x_position": tfds.features.ClassLabel(num_classes=32),
        }
    )
    parse = parser(TASKS["dsprites-xpos"].row)
    pixels = np.array([[[0], [1]], [[1], [0]]], np.uint8)
    found = parse(example(features, image=pixels, label_x_position=31))
    assert found["labels"].numpy().tolist() == [[15]]
    image = tf.io.decode_image(found["image"][0], channels=3).numpy()
    np.testing.assert_array_equal(image, np.repeat(pixels * 255, 3, axis=2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected pixels from 0 to 1"):
        parse(example(features, image=pixels * 2, label_x_position=31))


@pytest.fixture(scope="module")
def mock_data(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("vtab"))


@pytest.mark.parametrize("name", [*ONE_PER_GROUP, *SLOW])
def test_a_task_opens_with_its_classes_and_its_images(name, mock_data):
    write_mock_data(name, mock_data)
    row, found = TASKS[name].row, {}
    for split, count in COUNTS.items():
        dataset = open_dataset(f"vtab/{name}", mock_split(split), mock_data)
        assert len(dataset.records) == count
        assert (dataset.num_classes, dataset.labels_per_image) == (row.num_classes, 1)
        parsed = dataset.parse(tf.constant(dataset.records.read(np.arange(count))))
        assert parsed["labels"].shape == (count, 1)
        assert {*parsed["labels"].numpy().flat} <= {*range(row.num_classes)}
        found[split] = [tf.io.decode_image(image).numpy() for image in parsed["image"]]
        assert found[split][0].ndim == 3
    assert not any(np.array_equal(a, b) for a in found["val200"] for b in found["test"])
    # Where the sizes of the images are known, they decide which of a task are small.
    builder = tfds.builder(f"{row.tfds_name}:{row.version}")
    shape = builder.info.features["image"].shape
    if None not in shape:
        assert TASKS[name].is_small == (shape[0] * shape[1] < 96 * 96)
    if not row.label_rule:
        assert dataset.class_names == tuple(builder.info.features[row.label_key].names)


def test_examples_that_are_not_there_are_missed(mock_data):
    write_mock_data("eurosat", mock_data)
    with pytest.raises(ValueError, match="eurosat-train.array_record-00005-of-00006"):
        open_dataset("vtab/eurosat", "test", mock_data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar100", r"Expected the dataset 'vtab/cifar100', cifar100:3\.0\.2,.*it is not there"),
        ("sun397", r"tfds\.builder\(\"sun397/tfds:4\.0\.0\""),
        ("resisc45", r"put the folder NWPU-RESISC45.*into .*/downloads/manual, then prepare"),
        (
            "diabetic_retinopathy",
            r"(?s)put the folders train, test .*kaggle.com.*btgraham-300:3\.0\.0",
        ),
        ("smallnorb", "Unknown dataset 'vtab/smallnorb'.*Did you mean 'vtab/smallnorb-"),
    ],
)
def test_missing_data_are_an_error_that_says_how_to_get_them(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_dataset(f"vtab/{name}", "test", str(tmp_path))


def test_another_version_is_refused_unless_it_is_named(mock_data, tmp_path):
    write_mock_data("kitti-distance", str(tmp_path))
    (tmp_path / "kitti" / "3.1.0").rename(tmp_path / "kitti" / "3.3.0")
    message = r"(?s)'vtab/kitti-distance', kitti:3\.1\.0, in .*found only 3\.3\.0.*kitti:3\.1\.0"
    with pytest.raises(ValueError, match=message):
        open_dataset("vtab/kitti-distance", "val200[:2]", str(tmp_path))
    dataset = open_dataset("vtab/kitti-distance:3.3.0", "val200[:2]", str(tmp_path))
    assert len(dataset.records) == 2


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="Unknown VTAB-1k task 'cifar10'.*mean 'cifar100'"):
        find_task("cifar10")

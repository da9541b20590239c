"""The 19 tasks of VTAB-1k: 1,000 training images of each, and all its test images.

A task is a dataset `vtab/NAME` with four named splits: `train800`, `val200`, both together as
`train800val200`, and `test`. Which images these are depends on the order of TFDS's files, so every
row has one version.

Source: the VTAB paper (arXiv:1910.04867) and its authors' public code, which asks for the latest
3.* of caltech101, for example; the version here is what TFDS 4.9.10 makes of that. It has no 3.* of
oxford_iiit_pet any more: 4.0.0 has other files for some images, in another order. Crops, flips and
small images: the BiT paper (arXiv:1912.11370), Appendix F and section 3.3.
"""

import dataclasses
from typing import Any

from mixer.data.row import DatasetRow
from mixer.errors import unknown_name

GROUPS = ("natural", "specialized", "structured")


@dataclasses.dataclass(frozen=True)
class Task:
    """A task; `row` is that of `vtab/NAME` in the table of datasets."""

    group: str  # of `GROUPS`
    row: DatasetRow
    is_small: bool = False  # less area than 96 x 96 pixels
    may_crop: bool = True  # at random, in training
    may_flip: bool = True


def _row(
    tfds_name: str,
    version: str,
    num_classes: int,
    sizes: tuple[int, int, int],  # of train, validation and test; 0: there is none
    val200: str = "validation[:200]",
    test: str = "test",
    **more: Any,
) -> DatasetRow:
    splits = dict(zip(("train", "validation", "test"), sizes, strict=True))
    named = {
        "train800": "train[:800]",
        "val200": val200,
        "train800val200": f"train[:800]+{val200}",
        "test": test,
    }
    return DatasetRow(
        tfds_name,
        num_classes,
        {split: size for split, size in splits.items() if size},
        version=version,
        named_splits=named,
        **more,
    )


def _clevr(num_classes: int, label_rule: str) -> DatasetRow:
    return _row(
        *("clevr", "3.1.0", num_classes, (70_000, 15_000, 15_000)),
        *("train[63000:63200]", "validation"),
        label_rule=label_rule,
    )


def _dsprites(label_rule: str) -> DatasetRow:
    return _row(
        *("dsprites", "2.0.0", 16, (737_280, 0, 0)),
        *("train[589824:590024]", "train[663552:]"),
        label_rule=label_rule,
        pixel_factor=255,  # its pixels are 0 and 1
    )


def _smallnorb(num_classes: int, label_key: str) -> DatasetRow:
    return _row(
        *("smallnorb", "2.0.0", num_classes, (24_300, 0, 24_300)),
        *("test[:200]", "test[50%:]"),
        label_key=label_key,
    )


TASKS: dict[str, Task] = {
    "caltech101": Task(
        "natural", _row("caltech101", "3.0.2", 102, (3_057, 0, 6_084), "train[2751:2951]")
    ),
    "cifar100": Task(
        "natural",
        _row("cifar100", "3.0.2", 100, (50_000, 0, 10_000), "train[45000:45200]"),
        is_small=True,
    ),
    "dtd": Task("natural", _row("dtd", "3.0.1", 47, (1_880, 1_880, 1_880))),
    "oxford_flowers102": Task(
        "natural", _row("oxford_flowers102", "2.1.1", 102, (1_020, 1_020, 6_149))
    ),
    "oxford_iiit_pet": Task(
        "natural", _row("oxford_iiit_pet", "4.0.0", 37, (3_680, 0, 3_669), "train[2944:3144]")
    ),
    "svhn": Task(
        "natural",
        _row("svhn_cropped", "3.1.0", 10, (73_257, 0, 26_032), "train[65931:66131]"),
        is_small=True,
    ),
    "sun397": Task("natural", _row("sun397/tfds", "4.0.0", 397, (76_128, 10_875, 21_750))),
    "patch_camelyon": Task(
        "specialized", _row("patch_camelyon", "2.0.0", 2, (262_144, 32_768, 32_768))
    ),
    "eurosat": Task(
        "specialized",
        _row("eurosat/rgb", "2.0.0", 10, (27_000, 0, 0), "train[16200:16400]", "train[21600:]"),
        is_small=True,
    ),
    "resisc45": Task(
        "specialized",
        _row(
            *("resisc45", "3.0.0", 45, (31_500, 0, 0), "train[18900:19100]", "train[25200:]"),
            manual_files="the folder NWPU-RESISC45, unpacked from NWPU-RESISC45.rar of "
            "https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs",
        ),
    ),
    "diabetic_retinopathy": Task(
        "specialized",
        _row(
            "diabetic_retinopathy_detection/btgraham-300",
            *("3.0.0", 5, (35_126, 10_906, 42_670)),
            manual_files="the folders train, test and sample and the files trainLabels.csv and "
            "sampleSubmissions.csv, unpacked from "
            "https://www.kaggle.com/c/diabetic-retinopathy-detection/data",
        ),
    ),
    "clevr-count": Task("structured", _clevr(8, "object_count"), may_crop=False),
    "clevr-distance": Task("structured", _clevr(6, "closest_object"), may_crop=False),
    "dmlab": Task(
        "structured", _row("dmlab", "2.0.1", 6, (65_550, 22_628, 22_735)), may_crop=False
    ),
    "kitti-distance": Task(
        "structured",
        _row("kitti", "3.1.0", 4, (6_347, 423, 711), label_rule="closest_vehicle"),
        may_crop=False,
    ),
    "dsprites-xpos": Task(
        "structured", _dsprites("x_position"), is_small=True, may_crop=False, may_flip=False
    ),
    "dsprites-orientation": Task(
        "structured", _dsprites("orientation"), is_small=True, may_flip=False
    ),
    "smallnorb-azimuth": Task("structured", _smallnorb(18, "label_azimuth"), may_flip=False),
    "smallnorb-elevation": Task("structured", _smallnorb(9, "label_elevation")),
}

VTAB_ROWS = {f"vtab/{name}": task.row for name, task in TASKS.items()}


def find_task(name: str) -> Task:
    """Returns the task `name`; ValueError for an unknown one, which names the nearest."""
    if name not in TASKS:
        raise unknown_name("VTAB-1k task", name, TASKS)
    return TASKS[name]

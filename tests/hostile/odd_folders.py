"""Odd folders: what each holds, and what training and preparation must say of it."""

import dataclasses
import pathlib
from collections.abc import Callable

from hostile.files import jpeg

JPEG = jpeg()


@dataclasses.dataclass(frozen=True)
class Odd:
    """One folder. `images`: split -> class -> how many; or the `error` that names the trouble."""

    files: tuple[str, ...]  # a name that ends with / is a folder
    images: dict[str, dict[str, int]] | None = None
    said: tuple[str, ...] = ()
    error: str = ""
    after: Callable[[pathlib.Path], object] = lambda root: None


def _of(*classes: str, split: str = "train", count: int = 2) -> tuple[str, ...]:
    return tuple(f"{split}/{name}/{i}.jpg" for name in classes for i in range(count))


_BOTH = (*_of("ant", "bee"), *_of("ant", "bee", split="test"))
_TWO = {"test": {"ant": 2, "bee": 2}, "train": {"ant": 2, "bee": 2}}
_ALONE = tuple(f"{name}/{i}.jpg" for name in ("ant", "bee") for i in range(10))
_SPLIT = {"test": {"ant": 1, "bee": 1}, "train": {"ant": 9, "bee": 9}}


def _both(**changes: object) -> Odd:
    more = changes.pop("more", ())
    return Odd((*_BOTH, *more), **{"images": _TWO, **changes})


def _named(held_out: str) -> Odd:
    files = (*_of("ant", "bee"), *_of("ant", "bee", split=held_out))
    return Odd(files, {held_out: _TWO["test"], "train": _TWO["train"]})


def _link(place: str, target: str) -> Callable[[pathlib.Path], object]:
    return lambda root: (root / place).symlink_to(target)


FOLDERS = {
    "plain": _both(),
    "val": _named("val"),
    "valid": _named("valid"),
    "validation": _named("validation"),
    "upper_case": Odd(
        (*_of("ant", "bee", split="Train"), *_of("ant", "bee", split="Test")),
        {"Test": _TWO["test"], "Train": _TWO["train"]},
    ),
    "classes_alone": Odd(
        _ALONE, _SPLIT, ("tenth of each class, by file name, is test (2 images)",)
    ),
    "classes_alone_with_text": Odd(
        (*_ALONE, "notes.txt", "ant/x.xml"), _SPLIT, ("1 .txt; 1 .xml",)
    ),
    "class_named_train": Odd(
        tuple(f"{n}/{i}.jpg" for n in ("train", "test") for i in range(10)),
        {"test": {"test": 1, "train": 1}, "train": {"test": 9, "train": 9}},
    ),
    "one_image_each": Odd(("ant/0.jpg", "bee/0.jpg"), {"train": {"ant": 1, "bee": 1}}),
    "hidden_entries": _both(
        more=("train/.DS_Store", "train/.cache/x.jpg", ".git/x", "train/ant/._0.jpg")
    ),
    "text_beside_classes": _both(
        more=("train/README.txt", "LICENSE"), said=("1 no suffix; 1 .txt",)
    ),
    "checkpoints_of_a_notebook": _both(more=("train/.ipynb_checkpoints/",)),
    "empty_class": _both(more=("train/cow/",), said=("1 folder without images (train/cow)",)),
    "class_of_text": _both(
        more=("train/cow/x.txt",), said=("1 .txt", "without images (train/cow)")
    ),
    "class_of_tiff": _both(more=("train/cow/x.tiff",), said=("1 .tiff", "images (train/cow)")),
    "class_of_a_gone_image": Odd(
        (*_BOTH, "train/cow/"), None, error="gone.jpg", after=_link("train/cow/gone.jpg", "nowhere")
    ),
    "gone_folder": _both(said=("1 no suffix",), after=_link("train/cow", "nowhere")),
    "deeper_images": _both(
        more=("train/ant/old/1.jpg", "train/ant/old/older/2.jpg"),
        said=("2 in train/ant/old, too deep",),
    ),
    "only_deeper_images": _both(more=("train/cow/old/1.jpg",), images=None, error="train/cow/old"),
    "all_deeper": Odd(("animals/ant/0.jpg", "animals/bee/0.jpg"), error="animals/bee"),
    "circle": _both(said=("1 link to a folder",), after=_link("train/ant/again", "..")),
    "linked_class": _both(
        more=("else/1.jpg",),
        images={"test": _TWO["test"], "train": {"ant": 2, "bee": 2, "cow": 1}},
        said=("in test of cow", "1 in else, which is no split"),
        after=_link("train/cow", "../else"),
    ),
    "images_beside_classes": _both(more=("train/x.jpg",), said=("in no class folder, such as",)),
    "images_beside_splits": _both(more=("x.jpg",), said=("1 .jpg",)),
    "images_without_classes": Odd(("x.jpg", "y.jpg"), error="x.jpg"),
    "more_classes_in_test": _both(more=("test/cow/0.jpg",), images=None, error="'cow'"),
    "fewer_classes_in_test": Odd(
        (*_of("ant", "bee"), *_of("ant", split="test")),
        {"test": {"ant": 2}, "train": _TWO["train"]},
        ("in test of bee",),
    ),
    "other_classes_in_test": Odd((*_of("ant"), *_of("bee", split="test")), error="'bee'"),
    "decomposed_name": Odd(
        (*_of("caf\u00e9", "bee"), *_of("cafe\u0301", "bee", split="test")),
        {"test": {"bee": 2, "caf\u00e9": 2}, "train": {"bee": 2, "caf\u00e9": 2}},
    ),
    "name_in_both_forms": Odd(_of("caf\u00e9", "cafe\u0301"), error="one place for each class"),
    "latin_1_class": Odd(_of("caf\udce9", "bee"), error=r"'caf\\xe9'"),
    "latin_1_image": _both(
        more=("train/ant/\udce9.jpg",),
        images={"test": _TWO["test"], "train": {"ant": 3, "bee": 2}},
    ),
    "spaces_around_a_class": Odd(_of("ant", "bee "), error="'bee '"),
    "line_break_in_a_class": Odd(_of("ant", "b\nee"), error=r"'b\nee'"),
    "empty_test": _both(more=("val/",), images=None, error="val; it holds none"),
    "third_split": _both(
        more=_of("ant", "bee", split="minival"), images={**_TWO, "minival": _TWO["test"]}
    ),
    "split_with_a_bad_name": _both(more=("te-st/ant/0.jpg",), images=None, error="'te-st'"),
    "documents_beside_splits": _both(
        more=("docs/figure.jpg", "docs/a.md"), said=("1 in docs, which is no split", "1 .md")
    ),
    "image_that_is_a_folder": _both(more=("train/ant/x.jpg/",)),
    "nothing": Odd((), error="holds none that has an image"),
    "hidden_images_only": Odd(("ant/.x.jpg",), error="holds none that has an image"),
    "test_only": Odd(_of("ant", "bee", split="test"), {"test": _TWO["test"]}),
}


def write(odd: Odd, root: pathlib.Path) -> None:
    """Writes the folder, with JPEGs in every file."""
    root.mkdir(parents=True)
    for number, name in enumerate(odd.files):
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG + b"%d" % number)
    odd.after(root)

"""Odd images and folders: training, evaluation, preparation and prediction give the same answer.

    PYTHONPATH=.:tests python -m hostile.agreement [images] [folders] [memory]

An image is read by all four, in the colours that Pillow reads, or refused by all, by name. A folder
has the same classes, splits and counts in training and preparation, and both say what they do not
use. Reading an image takes at most four times the memory of its pixels.
"""

import contextlib
import io
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile

# NumPy's OpenBLAS would start threads, and forks of a process with threads can hang.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from hostile import odd_folders, odd_images
from hostile.files import GOLDEN
from PIL import Image

from mixer.data import prepare
from mixer.data.datasets import open_dataset
from mixer.data.file_names import shown
from mixer.data.input_pipeline import EvalInput, TrainInput
from mixer.data.order import ExampleOrder
from mixer.data.preprocess import (
    inception_crop,
    make_eval_preprocess,
    make_train_preprocess,
    random_crop,
)

_MIB = 2**20
_NOISE = 40 * _MIB  # thread stacks, libraries, copies of the encoded bytes
_GREY = 3.0  # mean difference of pixels between two decoders of one JPEG or WebP
_SIZE = 16


def images(folder: pathlib.Path) -> list[tuple[str, str]]:
    """Returns each odd image and what is wrong with the answers to it, "" if nothing is."""
    root = folder / "images"
    place = root / "train" / "odd"
    place.mkdir(parents=True)
    sound, refused = odd_images.sound(), odd_images.refused()
    for name, content in {**sound, **refused}.items():
        (place / name).write_bytes(content)
    others = [*refused, *odd_images.no_files(place)]
    pixels = {"evaluation": _evaluate(f"folder:{root}", ""), "training": _train(f"folder:{root}")}
    data_dir = folder / "made"
    report = prepare.ingest_images(
        str(root), "odd", data_dir=str(data_dir), unreadable="skip", num_shards=1
    )
    pixels["preparation"] = _evaluate("odd", str(data_dir))
    left_out = {pathlib.Path(path.replace("\n", " ")).name for path in report.unreadable}
    pixels["prediction"], unpredicted = _predict(
        [place / n for n in sound], [place / n for n in others]
    )
    answers = []
    for name in sound:
        wrong = [who for who, found in pixels.items() if shown(name) not in found]
        if wrong:
            answers.append((name, f"not read in {', '.join(wrong)}"))
            continue
        seen = {who: found[shown(name)] for who, found in pixels.items() if who != "training"}
        difference = np.abs(seen["evaluation"].astype(float) - _reference(place / name)).mean()
        same = all(np.array_equal(seen["evaluation"], other) for other in seen.values())
        wrong = "" if same else "other pixels in " + ", ".join(seen)
        answers.append(
            (name, wrong or (f"colours off by {difference}" if difference > _GREY else ""))
        )
    for name in others:
        said = {who: shown(name) not in found for who, found in pixels.items()}
        said |= {"preparation": name in left_out, "prediction": name in unpredicted}
        wrong = [who for who, is_refused in said.items() if not is_refused]
        answers.append((name, f"not refused in {', '.join(wrong)}" if wrong else ""))
    return answers


def _evaluate(dataset: str, data_dir: str) -> dict[str, np.ndarray]:
    """Returns file name -> pixels of all images of `train` that an evaluation counts."""
    opened = open_dataset(dataset, "train", data_dir)
    damaged: list[str] = []
    evaluation = EvalInput(
        opened,
        make_eval_preprocess(size=_SIZE, crop="resize_crop", resize=_SIZE),
        batch_size=7,
        rows=np.arange(7),
        prefetch=1,
        cache=False,
        on_damage=damaged.append,
    )
    batches = list(evaluation.one_pass())
    rows = np.concatenate([batch["images"] for batch in batches])
    counted = np.concatenate([batch["labels"][:, 0] >= 0 for batch in batches])
    names = _names(opened, dataset)
    found = {name: rows[i] for i, name in enumerate(names) if counted[i]}
    assert all(any(name in line for line in damaged) for name in set(names) - set(found))
    return found


def _names(opened, dataset: str) -> list[str]:
    records = opened.records
    if dataset.startswith("folder:"):
        return [pathlib.PurePath(records.locate(i)).name for i in range(len(records))]
    import tensorflow as tf

    feature = {"file_name": tf.io.FixedLenFeature([], tf.string)}
    serialized = tf.constant(records.read(np.arange(len(records))))
    return [n.decode() for n in tf.io.parse_example(serialized, feature)["file_name"].numpy()]


def _train(dataset: str) -> dict[str, bool]:
    """Returns the names of the images that an epoch does not replace, with either crop."""
    opened = open_dataset(dataset, "train", "")
    count, damaged = len(opened.records), []
    for crop in (inception_crop(_SIZE, area=(0.5, 1.0)), random_crop(_SIZE, resize=_SIZE + 2)):
        preprocess = make_train_preprocess(
            size=_SIZE, crop=crop, flip=True, randaugment_layers=0, randaugment_magnitude=0.0
        )
        order = ExampleOrder(count, count, seed=0)
        train = TrainInput(opened, order, preprocess, rows=np.arange(count), prefetch=1)
        next(train.from_step(0, lambda step, lines: damaged.extend(lines)))
    names = _names(opened, dataset)
    refused = {name for name in names if any(f"/{name})" in line for line in damaged)}
    return dict.fromkeys(set(names) - refused, True)


def _predict(
    paths: list[pathlib.Path], others: list[pathlib.Path]
) -> tuple[dict[str, np.ndarray], set[str]]:
    from mixer.evaluation.prediction import predict
    from mixer.weights.load import load_model

    loaded = load_model(str(GOLDEN / "mixer_tiny.npz"), image_size=_SIZE)
    names = [str(label) for label in range(loaded.model.num_classes)]
    options = {"top": 1, "crop": "resize_crop", "resize": _SIZE}
    found = {shown(p.path.name): p.image for p in predict(loaded, paths, names, **options)}
    refused = set()
    for path in others:
        try:
            if path.is_file():  # as scripts/predict.py asks first
                predict(loaded, [path], names, **options)
            else:
                refused.add(path.name)
        except ValueError as error:
            if path.name in str(error):
                refused.add(path.name)
    return found, refused


def _reference(path: pathlib.Path) -> np.ndarray:
    """Returns what Pillow reads, squeezed; transparency is dropped, not blended."""
    import tensorflow as tf

    with Image.open(path) as image:
        values = np.asarray(image)
        if image.mode.startswith("I"):
            image = Image.fromarray((values // 257).astype(np.uint8))
        image = image.convert("RGBA") if image.mode == "P" and path.suffix != ".jpg" else image
        pixels = np.asarray(image.convert("RGB"))
    return tf.image.resize(pixels, (_SIZE, _SIZE), "bilinear").numpy()


def folders(folder: pathlib.Path, names: list[str]) -> list[tuple[str, str]]:
    """Returns each odd folder and what is wrong with the answers to it, "" if nothing is."""
    answers = []
    for name in names:
        odd, root = odd_folders.FOLDERS[name], folder / name / "images"
        odd_folders.write(odd, root)
        training, preparation = _open(root), _prepare(root, folder / name / "made")
        wrong = []
        for who, (found, text) in {"training": training, "preparation": preparation}.items():
            if odd.error and (isinstance(found, dict) or odd.error not in text):
                wrong.append(f"{who} does not refuse {odd.error}: {found} {text}")
            if not odd.error and found != odd.images:
                wrong.append(f"{who} finds {found}, not {odd.images}: {text}")
            wrong += [f"{who} does not say {part}: {text}" for part in odd.said if part not in text]
        answers.append((name, "; ".join(wrong)))
    return answers


def _open(root: pathlib.Path) -> tuple[object, str]:
    """Returns the images of each class in each split, as training and evaluation see them."""
    from mixer.data.folder import read_image_folder

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            found = {}
            for split in read_image_folder(root).splits:
                opened = open_dataset(f"folder:{root}", split, "")
                examples = opened.records.read(np.arange(len(opened.records)))
                labels = opened.parse(np.array(examples, object))["labels"].numpy()[:, 0]
                counts = np.bincount(labels, minlength=opened.num_classes).tolist()
                there = dict(zip(opened.class_names, counts, strict=True))
                found[split] = {name: count for name, count in there.items() if count}
        return found, output.getvalue()
    except (ValueError, OSError) as error:
        return None, str(error)


def _prepare(root: pathlib.Path, data_dir: pathlib.Path) -> tuple[object, str]:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            report = prepare.ingest_images(str(root), "odd", data_dir=str(data_dir), num_shards=1)
    except (ValueError, OSError) as error:
        return None, str(error)
    images = {
        split: {name: count for name, count in counts.items() if count}
        for split, counts in report.images.items()
    }
    return images, report.summary()


def memory(folder: pathlib.Path) -> list[tuple[str, str]]:
    """Returns each heavy image and whether it takes too much; each is read in its own process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:  # this process stays as it is
        pixels = pool.apply(odd_images.write_heavy, (folder,))
    answers = []
    idle = _peak(None)
    for name, count in pixels.items():
        taken = _peak(folder / name) - idle
        allowed = 4 * 3 * count + (folder / name).stat().st_size + _NOISE
        wrong = f"{taken / _MIB:.0f} MiB, {allowed / _MIB:.0f} allowed"
        answers.append((name, wrong if taken > allowed else ""))
    return answers


def _peak(path: pathlib.Path | None) -> int:
    """Returns the peak memory in bytes of a process that reads an image, or a small one."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
        content = path.read_bytes() if path else odd_images.encode(odd_images.PHOTO, "PNG")
        for crop in ("resmall_crop", "resize_crop"):
            make_eval_preprocess(size=_SIZE, crop=crop, resize=_SIZE)(content)
        for crop in (inception_crop(_SIZE, area=(0.5, 1.0)), random_crop(_SIZE, resize=_SIZE)):
            crop(content, np.array([0, 1]))
        os._exit(0)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, f"reading {path} ends with {status}"
    return usage.ru_maxrss * 1024


def main(parts: list[str]) -> int:
    parts = parts or ["memory", "images", "folders"]
    failed = count = 0
    with tempfile.TemporaryDirectory(prefix="odd-") as temporary:
        folder = pathlib.Path(temporary)
        ask = {
            "memory": lambda: memory(folder),  # first: it forks before TensorFlow has threads
            "images": lambda: images(folder),
            "folders": lambda: folders(folder, list(odd_folders.FOLDERS)),
        }
        for part in (part for part in ask if part in parts):
            for name, wrong in ask[part]():
                print(f"{part:8} {shown(name)!r:35} {wrong or 'the same answer'}", flush=True)
                failed, count = failed + bool(wrong), count + 1
    print(f"{count} odd images and folders, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

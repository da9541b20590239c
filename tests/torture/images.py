"""A folder of real JPEGs to train on: parts of scikit-learn's two photos, and its digits."""

import pathlib

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image


def write_images(folder: pathlib.Path) -> None:
    """Writes 160 training and 40 test images of 12 classes; their sizes differ."""
    rng = np.random.default_rng(0)
    digits = load_digits()
    images = []
    for photo in ("china", "flower"):
        pixels = load_sample_image(f"{photo}.jpg")
        for _ in range(50):
            height, width = rng.integers(60, 200, 2)
            top, left = (rng.integers(0, n - 200) for n in pixels.shape[:2])
            images.append((photo, Image.fromarray(pixels[top : top + height, left : left + width])))
    for digit in range(10):
        for pixels in digits.images[digits.target == digit][:10]:
            picture = Image.fromarray((pixels * 15).astype(np.uint8)).resize((48, 48))
            images.append((f"digit{digit}", picture.convert("RGB")))
    for number, (name, image) in enumerate(images):
        split = "test" if number % 5 == 0 else "train"
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / split / name / f"{number:03}.jpg", quality=85)

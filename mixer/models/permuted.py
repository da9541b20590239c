"""Models that see every image with its pixels in another order: Figure 4, section 3.4.

One fixed permutation for all images, in training and in evaluation, after augmentation. Only what
the paper compares is here: Mixer and the ResNet.
"""

import jax
import numpy as np

from mixer.errors import unknown_name
from mixer.models.bit import BitResNet
from mixer.models.images import check_images_shape
from mixer.models.mixer import MlpMixer

PERMUTATIONS = ("patches", "pixels")


def permute_pixels(images: jax.Array, permutation: str, patch_size: int) -> jax.Array:
    """Returns images `[B, H, W, 3]` with the pixels of each in another order.

    "patches" shuffles the order of the patches, and within each of them the pixels, all alike;
    "pixels" shuffles all pixels of the image. The three colours of a pixel stay together.

    Raises:
      ValueError: the permutation is unknown, or the images do not split into patches.
    """
    if permutation not in PERMUTATIONS:
        raise unknown_name("permutation", permutation, PERMUTATIONS)
    check_images_shape(images.shape, patch_size)
    batch, height, width, colours = images.shape
    if permutation == "pixels":
        order = _order(height * width, seed=0)
        return images.reshape(batch, height * width, colours)[:, order].reshape(images.shape)
    rows, columns = height // patch_size, width // patch_size
    if rows * columns < 2:
        raise ValueError(
            f"Expected two or more patches to permute; got one of {patch_size} pixels in images "
            f"of {height} x {width}. Use a smaller permuted_patch_size."
        )
    patches = images.reshape(batch, rows, patch_size, columns, patch_size, colours).swapaxes(2, 3)
    patches = patches.reshape(batch, rows * columns, patch_size**2, colours)
    patches = patches[:, patch_order(rows * columns)][:, :, pixel_order(patch_size)]
    patches = patches.reshape(batch, rows, columns, patch_size, patch_size, colours)
    return patches.swapaxes(2, 3).reshape(images.shape)


def patch_order(num_patches: int) -> np.ndarray:
    """Returns the number of the patch that comes to each place, `[S]`."""
    return _order(num_patches, seed=1)


def pixel_order(patch_size: int) -> np.ndarray:
    """Returns the number of the pixel that comes to each place in a patch, `[P * P]`."""
    return _order(patch_size**2, seed=2)


def _order(size: int, seed: int) -> np.ndarray:
    # NumPy keeps this generator as it is: a run sees the same images with every version.
    return np.random.RandomState(seed).permutation(size)


class PermutedMixer(MlpMixer):
    """MLP-Mixer on permuted images; the permuted patches are its own."""

    permutation: str = "patches"

    def __call__(
        self, images: jax.Array, *, train: bool = False, rows: jax.Array | None = None
    ) -> jax.Array:
        images = permute_pixels(images, self.permutation, self.patch_size)
        return super().__call__(images, train=train, rows=rows)


class PermutedResNet(BitResNet):
    """BiT-ResNet on permuted images; Figure 4 has patches of 16 x 16 pixels."""

    permutation: str = "patches"
    permuted_patch_size: int = 16

    def __call__(
        self, images: jax.Array, *, train: bool = False, rows: jax.Array | None = None
    ) -> jax.Array:
        images = permute_pixels(images, self.permutation, self.permuted_patch_size)
        return super().__call__(images, train=train, rows=rows)

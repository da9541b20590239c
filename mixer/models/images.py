"""The sizes of images that split into patches."""


def check_images_shape(shape: tuple[int, ...], patch_size: int) -> None:
    """Raises ValueError unless the images `[B, H, W, channels]` split into whole patches.

    A convolution would silently pad or cut such an image, each framework in its own way.
    """
    if len(shape) != 4:
        raise ValueError(
            f"Expected images of rank 4, [batch, height, width, channels]; got shape {shape}. "
            "Add a batch dimension to a single image: images[None]."
        )
    height, width = shape[1:3]
    if height % patch_size or width % patch_size or 0 in (height, width):
        raise ValueError(
            f"Expected height and width to be multiples of patch_size={patch_size}; got "
            f"{height} x {width}. Nearest that fit: height {_nearest_multiples(height, patch_size)}"
            f", width {_nearest_multiples(width, patch_size)}."
        )


def _nearest_multiples(size: int, patch_size: int) -> str:
    below = size // patch_size * patch_size
    multiples = [below] if below == size else [below, below + patch_size]
    return " or ".join(str(multiple) for multiple in multiples if multiple)

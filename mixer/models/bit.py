"""BiT-ResNet: ResNets with group normalisation and standardised kernels, in two versions.

`v2` is the network of Kolesnikov et al., 2020 (arXiv:1912.11370) and of its released weights: a
pre-activation ResNet, trained with SGD. `v1` is a post-activation ResNet with the same parts. The
ViT and Mixer papers compare with ResNets trained with Adam, which are most likely `v1`: no public
code has the depth of R200x3 in `v2`.

Dimensions: B batch, H x W image or map, C channels.

The names in the parameter tree (`conv_root`, `block1/unit1/conv1`, `gn1`, `conv_proj`, ...) are
those of the published code of `v1`; `mixer/weights/bit.py` has those of the released `v2`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from mixer.errors import unknown_name
from mixer.models.images import check_images_shape
from mixer.models.layers import classification_head
from mixer.models.remat import rematerialized

VERSIONS = ("v2", "v1")

_GROUPS = 32
_ROOT_CHANNELS = 64  # at width 1

_BLOCK_SIZES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}


def _size(depth: int, width: float) -> dict[str, Any]:
    return dict(block_sizes=_BLOCK_SIZES[depth], width=width)


VARIANTS: dict[str, dict[str, Any]] = {
    "R50x1": _size(50, 1.0),
    "R50x2": _size(50, 2.0),
    "R50x3": _size(50, 3.0),
    "R101x1": _size(101, 1.0),
    "R101x3": _size(101, 3.0),
    "R152x1": _size(152, 1.0),
    "R152x2": _size(152, 2.0),
    "R152x4": _size(152, 4.0),
    "R200x3": _size(200, 3.0),
}


class StandardizedConv(nn.Module):
    """A convolution without bias, whose kernel has mean 0 and variance 1 for each output channel.

    Source: Qiao et al., 2019 (arXiv:1903.10520).
    """

    channels: int
    kernel_size: int
    stride: int = 1
    version: str = "v2"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, pad = self.kernel_size, self.kernel_size // 2
        shape = (size, size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        kernel = kernel - jnp.mean(kernel, axis=(0, 1, 2))
        variance = jnp.mean(jnp.square(kernel), axis=(0, 1, 2))
        if self.version == "v2":
            kernel = kernel * jax.lax.rsqrt(variance + 1e-10)
        else:
            kernel = kernel / (jnp.sqrt(variance) + 1e-5)
        y = jax.lax.conv_general_dilated(
            x,
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            # They differ at stride 2: "SAME" pads an even side at its end.
            ((pad, pad), (pad, pad)) if self.version == "v2" else "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return checkpoint_name(y, "hidden")


class Unit(nn.Module):
    """A bottleneck of three convolutions beside a shortcut, `[B, H, W, C]` to 4 `channels`.

    The shortcut is a projection in the first unit of a block, which may have a stride of 2.
    """

    channels: int
    stride: int
    is_first: bool
    version: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(StandardizedConv, version=self.version, dtype=self.dtype)
        norm = functools.partial(group_norm, self.version, self.dtype)
        projection = conv(4 * self.channels, 1, self.stride, name="conv_proj")
        first = conv(self.channels, 1, name="conv1")
        second = conv(self.channels, 3, self.stride, name="conv2")
        third = conv(4 * self.channels, 1, name="conv3")
        if self.version == "v2":
            y = nn.relu(norm("gn1")(x))
            shortcut = projection(y) if self.is_first else x
            y = nn.relu(norm("gn2")(first(y)))
            y = nn.relu(norm("gn3")(second(y)))
            return checkpoint_name(shortcut + third(y), "trunk")
        shortcut = norm("gn_proj")(projection(x)) if self.is_first else x
        y = nn.relu(norm("gn1")(first(x)))
        y = nn.relu(norm("gn2")(second(y)))
        y = norm("gn3", scale_init=nn.initializers.zeros)(third(y))
        return checkpoint_name(nn.relu(shortcut + y), "trunk")


class Block(nn.Module):
    """Units on maps of one size, after the stride of the first."""

    channels: int
    num_units: int
    stride: int
    version: str
    dtype: DTypeLike
    remat: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        unit = rematerialized(Unit, self.remat)
        for number in range(self.num_units):
            x = unit(
                self.channels,
                stride=self.stride if number == 0 else 1,
                is_first=number == 0,
                version=self.version,
                dtype=self.dtype,
                name=f"unit{number + 1}",
            )(x)
        return x


def group_norm(version: str, dtype: DTypeLike, name: str, **init: Any) -> nn.GroupNorm:
    """Returns the normalisation over 32 groups of channels; statistics in float32."""
    epsilon = 1e-5 if version == "v2" else 1e-6
    return nn.GroupNorm(
        _GROUPS, epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name, **init
    )


class BitResNet(nn.Module):
    """BiT-ResNet: images `[B, H, W, 3]` of any size to logits `[B, num_classes]` in float32.

    With `num_classes=0` there is no head and the pre-logits come back, `[B, C]`. Nothing in it is
    random.

    Fields:
      block_sizes: units of each block; from the second block on, the first unit halves the map.
      width: factor of all channels; with 1, the root has 64.
      version: "v2" or "v1", see above.
      head_bias_init, dtype, remat: as in `MlpMixer`; the blocks that `remat` is about are units.

    Source: section 3.1 and Table 1 (v2) of the BiT paper; v1: the public code of its authors.
    """

    num_classes: int
    block_sizes: tuple[int, ...]
    width: float = 1.0
    version: str = "v2"
    head_bias_init: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, rows: jax.Array | None = None
    ) -> jax.Array:
        """Returns the logits; `train` and `rows`, which other models need, change nothing.

        Raises:
          ValueError: the images are not a batch, 32 groups do not divide the channels of the root,
            or `version` or `remat` is unknown.
        """
        self._check_fields()
        check_images_shape(images.shape, patch_size=1)
        channels = int(_ROOT_CHANNELS * self.width)
        x = self._root(images.astype(self.dtype), channels)
        for block, units in enumerate(self.block_sizes):
            x = Block(
                channels * 2**block,
                units,
                stride=1 if block == 0 else 2,
                version=self.version,
                dtype=self.dtype,
                remat=self.remat,
                name=f"block{block + 1}",
            )(x)
        if self.version == "v2":
            x = nn.relu(group_norm(self.version, self.dtype, "norm")(x))
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)  # [B, C], the pre-logits
        if self.num_classes == 0:
            return x
        return classification_head(self.num_classes, self.head_bias_init)(x)

    def _root(self, x: jax.Array, channels: int) -> jax.Array:
        root = StandardizedConv(channels, 7, 2, self.version, self.dtype, name="conv_root")
        x = root(x)
        if self.version == "v2":
            # The maximum is of zeros and not of -inf beyond the edge, though there was no ReLU.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        x = nn.relu(group_norm(self.version, self.dtype, "gn_root")(x))
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")

    def _check_fields(self) -> None:
        if self.version not in VERSIONS:
            raise unknown_name("version", self.version, VERSIONS)
        channels = _ROOT_CHANNELS * self.width
        if channels % _GROUPS or channels <= 0:
            raise ValueError(
                f"Expected width to be a multiple of {_GROUPS / _ROOT_CHANNELS:g}, as its channels "
                f"are normalised in {_GROUPS} groups; got {self.width:g}, {channels:g} channels in "
                "the root."
            )
        if not self.block_sizes or min(self.block_sizes) < 1:
            raise ValueError(
                "Expected block_sizes to be the units of each block, such as (3, 4, 6, 3); got "
                f"{self.block_sizes}."
            )

"""The weights of MLP-Mixers: their shapes, and the two namings of the released .npz files.

The parameter tree has the released naming. In the older one, `stem` is `embedding`, `MixerBlock_3`
is `Mixer/encoderblock_3`, `pre_head_layer_norm` is `Mixer/encoder_norm`, and the two dense layers
of an MLP are `kernel1, bias1, kernel2, bias2` of `token_mixing_phase_N` or
`channel_mixing_phase_N`, with extra dimensions of size 1. The number `N` here and in `LayerNorm_N`
is arbitrary; only the order within the block matters. Block numbers are kept, so that a missing
block is detected.

Source: the loader of the public training code of the paper's authors.
"""

import collections
import math
import re
from collections.abc import Iterable

from mixer.weights.naming import Flat, Found, Read, read_renamed, renamed, without_prefix
from mixer.weights.shapes import Shapes, check_shapes, first_names

MODEL = "MLP-Mixer"

_OLDER_MODULES = {"embedding": "stem", "Mixer/encoder_norm": "pre_head_layer_norm", "head": "head"}
_OLDER_BLOCK = re.compile(r"Mixer/encoderblock_(0|[1-9]\d{0,5})/([a-zA-Z_]+)_(\d{1,6})/(\w+)", re.A)
_OLDER_PARTS = {  # (name in a block, index among modules with that name) -> released name
    ("LayerNorm", 0): "LayerNorm_0",
    ("LayerNorm", 1): "LayerNorm_1",
    ("token_mixing_phase", 0): "token_mixing",
    ("channel_mixing_phase", 0): "channel_mixing",
}
_OLDER_LEAVES = {
    "kernel1": "Dense_0/kernel",
    "bias1": "Dense_0/bias",
    "kernel2": "Dense_1/kernel",
    "bias2": "Dense_1/bias",
}


def is_npz(names: Iterable[str]) -> bool:
    """True if a .npz with these names holds a Mixer."""
    inner = without_prefix(names)
    return _is_older(inner) or any(name.startswith("MixerBlock_") for name in inner)


def npz_naming(names: Iterable[str]) -> str:
    """Returns what the naming of a .npz is called."""
    return "in the older naming" if _is_older(without_prefix(names)) else "in the released naming"


def from_npz(shapes: Shapes, read: Read) -> Flat:
    """Returns the parameters in a .npz by released name; see `mixer.weights.naming`.

    Raises:
      ValueError: they are not exactly those of one Mixer.
    """
    inner = without_prefix(shapes)
    names = _released_names(inner) if _is_older(inner) else inner
    found = {name: shapes[raw] for name, raw in names.items()}
    expected = expected_shapes(find(found))
    if _is_older(inner):
        return read_renamed(shapes, read, names, expected, MODEL)
    check_shapes(found, expected, MODEL)
    return {name: read(names[name]) for name in expected}


def to_npz(params: Flat) -> Flat:
    """Returns the parameters by their released names, which are those of the tree."""
    return dict(params)


def find(shapes: Shapes) -> Found:
    """Returns the architecture that most shapes, by released name, agree on.

    Widths are inferred from the number of elements of the biases, so extra dimensions of size 1
    do not matter. `check_shapes` then reports the parameters that do not fit.

    Raises:
      ValueError: a width cannot be inferred because the relevant parameters are missing or empty.
    """
    stem = shapes.get("stem/kernel", ())
    if len(stem) < 4:
        raise ValueError(
            "Expected a 'stem/kernel' of shape (patch_size, patch_size, 3, hidden_dim); got "
            f"{f'shape {stem}' if stem else 'none'} in {len(shapes)} parameters: "
            f"{first_names(list(shapes))}. Load the weights of an {MODEL}."
        )
    blocks = {name.partition("/")[0] for name in shapes if re.match("MixerBlock_[^/]*/", name)}
    fields = dict(
        num_classes=_width(shapes, "head") if any(n.startswith("head/") for n in shapes) else 0,
        num_blocks=len(blocks),
        patch_size=stem[-4],
        hidden_dim=_width(shapes, "stem", "channel_mixing/Dense_1"),
        tokens_mlp_dim=_width(shapes, "token_mixing/Dense_0"),
        channels_mlp_dim=_width(shapes, "channel_mixing/Dense_0"),
    )
    return Found(fields, num_tokens=_width(shapes, "token_mixing/Dense_1"))


def expected_shapes(found: Found) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the model, by released name."""
    f, tokens = found.fields, found.num_tokens
    width, tokens_dim, channels_dim = f["hidden_dim"], f["tokens_mlp_dim"], f["channels_mlp_dim"]

    def dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}/scale": (width,), f"{name}/bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {
        "stem/kernel": (f["patch_size"], f["patch_size"], 3, width),
        "stem/bias": (width,),
    }
    for block in (f"MixerBlock_{number}" for number in range(f["num_blocks"])):
        shapes |= norm(f"{block}/LayerNorm_0")
        shapes |= dense(f"{block}/token_mixing/Dense_0", tokens, tokens_dim)
        shapes |= dense(f"{block}/token_mixing/Dense_1", tokens_dim, tokens)
        shapes |= norm(f"{block}/LayerNorm_1")
        shapes |= dense(f"{block}/channel_mixing/Dense_0", width, channels_dim)
        shapes |= dense(f"{block}/channel_mixing/Dense_1", channels_dim, width)
    shapes |= norm("pre_head_layer_norm")
    return shapes | (dense("head", width, f["num_classes"]) if f["num_classes"] else {})


def _width(shapes: Shapes, *modules: str) -> int:
    """Returns the most common output width of the given layers, from biases or else kernels."""
    layers = [
        (leaf, shape)
        for name, shape in shapes.items()
        for module, _, leaf in [name.rpartition("/")]
        if module.endswith(modules)
    ]
    widths = [math.prod(shape) for leaf, shape in layers if leaf == "bias"]
    widths = widths or [shape[-1] for leaf, shape in layers if leaf == "kernel" and shape]
    if not widths or min(widths) < 1:
        raise ValueError(
            f"Expected parameters of {' and '.join(modules)}; got "
            f"{'empty arrays' if widths else 'none'} in {len(shapes)} parameters: "
            f"{first_names(list(shapes))}. Load the weights of an {MODEL}."
        )
    return collections.Counter(widths).most_common(1)[0][0]


def _is_older(names: Iterable[str]) -> bool:
    return any(name.startswith("Mixer/") for name in names)


def _released_names(older: dict[str, str]) -> dict[str, str]:
    """Returns released name -> name in the file; unknown names stay as they are."""
    numbers = collections.defaultdict(set)
    for name in older:
        if match := _OLDER_BLOCK.fullmatch(name):
            numbers[match[1], match[2]].add(int(match[3]))

    def released(name: str) -> str:
        module, _, leaf = name.rpartition("/")
        if match := _OLDER_BLOCK.fullmatch(name):
            place = sorted(numbers[match[1], match[2]]).index(int(match[3]))
            part = _OLDER_PARTS.get((match[2], place))
            if part is not None:
                return f"MixerBlock_{match[1]}/{part}/{_OLDER_LEAVES.get(match[4], match[4])}"
        elif module in _OLDER_MODULES:
            return f"{_OLDER_MODULES[module]}/{leaf}"
        return name

    return renamed(older, released)

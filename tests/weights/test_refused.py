"""Published weights that are not supported are refused by name: a table of what gives them away."""

import re

import numpy as np
import pytest
import safetensors.numpy

from mixer.weights import load_params, vit_timm
from tests.weights.family_files import GOLDEN, arrays_of, params_of

POSITIONS = "Transformer/posembed_input/pos_embedding"
HYBRID = "a plain ViT; got a hybrid, which works on the maps of a ResNet"
GATED = "one with gated MLPs"
BATCH = "a plain BiT-ResNet; got one with batch normalisation"
UNKNOWN = "a model of ViT, BiT-ResNet, gMLP or MLP-Mixer; got 1 arrays with other names in a "


def base(name: str) -> dict[str, np.ndarray]:
    """Returns arrays by the names of the format in the suffix."""
    family = name.partition(".")[0]
    if family == "nothing":
        return {}
    if name == "vit.safetensors":
        return vit_timm.to_timm(params_of("vit_tiny"))
    if name == "mixer.safetensors":
        return safetensors.numpy.load_file(GOLDEN / "timm_mixer_tiny.safetensors")
    if name == "gmlp.safetensors":
        return arrays_of("timm_gmlp_tiny")
    return arrays_of({"vit": "vit_tiny", "bit": "bit_tiny", "bit_v1": "bit_v1_tiny"}[family])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        # R50+ViT, R26+ViT and R+ViT, of vision_transformer.
        ("vit.npz", {"conv_root/kernel": (7, 7, 3, 8)}, HYBRID),
        ("vit.npz", {"gn_root/scale": (8,)}, HYBRID),
        ("vit.npz", {"block1/unit1/conv1/kernel": (1, 1, 8, 8)}, HYBRID),
        ("vit.npz", {"Transformer/encoderblock/LayerNorm_0/bias": (2, 32)}, "one array (a scan)"),
        ("vit.npz", {"MAPHead_0/probe": (1, 1, 32)}, "one that pools by attention"),
        ("vit.npz", {"probe": (1, 1, 32)}, "one that pools by attention"),
        # sincos2d, of big_vision.
        ("vit.npz", {POSITIONS: None}, "one without learned position embeddings"),
        ("bit.npz", {"norm-pre-head/scale": (256,)}, "root pads its maximum with minus infinity"),
        ("bit.npz", {"batch_stats/norm/mean": (256,)}, BATCH),
        ("bit_v1.npz", {"block1/unit1/BatchNorm_0/scale": (8,)}, BATCH),
        (
            "nothing.npz",
            {"params/BatchNorm_0/scale": (8,), "batch_stats/BatchNorm_0/m": (8,)},
            BATCH,
        ),
        ("vit.safetensors", {"patch_embed.backbone.stem.conv.weight": (8, 3, 7, 7)}, HYBRID),
        ("vit.safetensors", {"dist_token": (1, 1, 32)}, "a distilled one (DeiT)"),
        ("vit.safetensors", {"head_dist.weight": (10, 32)}, "a distilled one (DeiT)"),
        ("vit.safetensors", {"reg_token": (1, 4, 32)}, "one with registers"),
        ("vit.safetensors", {"fc_norm.weight": (32,)}, "normalises after pooling (fc_norm)"),
        ("vit.safetensors", {"norm_pre.weight": (32,)}, "normalises the patches"),
        ("vit.safetensors", {"patch_embed.norm.weight": (32,)}, "normalises the patches"),
        ("vit.safetensors", {"attn_pool.q.weight": (32, 32)}, "pools by attention"),
        ("vit.safetensors", {"blocks.0.ls1.gamma": (32,)}, "one with layer scale"),
        ("vit.safetensors", {"blocks.1.gamma_1": (32,)}, "one with layer scale"),  # BEiT
        ("vit.safetensors", {"blocks.0.attn.q_norm.weight": (8,)}, "normalises queries and keys"),
        ("vit.safetensors", {"blocks.0.mlp.norm.weight": (64,)}, "within attention or MLPs"),
        ("vit.safetensors", {"blocks.0.attn.rel_pos.table": (9, 4)}, "one with relative positions"),
        ("vit.safetensors", {"rope.freqs": (9, 4)}, "one with relative positions"),
        ("vit.safetensors", {"blocks.0.mlp.fc1_g.weight": (64, 32)}, f"{GATED} (SwiGLU)"),
        ("vit.safetensors", {"blocks.0.mlp.w12.weight": (128, 32)}, f"{GATED} (SwiGLU)"),
        ("vit.safetensors", {"blocks.0.mlp.fc1.weight": (128, 32)}, f"{GATED} (GLU)"),
        ("vit.safetensors", {"pos_embed": None}, "one without learned position embeddings"),
        ("vit.safetensors", {"pos_embed": (1, 16, 32)}, "has no position (no_embed_class)"),
        ("nothing.safetensors", {"blocks.0.attns.1.attn.qkv.weight": (9, 3)}, "parallel blocks"),
        ("mixer.safetensors", {"blocks.0.mlp_tokens.fc1.weight": (24, 16)}, f"{GATED} (GLU)"),
        ("mixer.safetensors", {"blocks.1.linear_tokens.weight": (16, 16)}, "got a ResMLP"),
        ("nothing.safetensors", {"blocks.1.linear_tokens.weight": (16, 16)}, "got a ResMLP"),
        ("mixer.safetensors", {"blocks.0.ls1": (24,)}, "got a ResMLP"),
        # ResNets, of timm and of torchvision.
        (
            "nothing.safetensors",
            {"stages.0.blocks.0.downsample.conv.weight": (9, 9, 1, 1)},
            "plain BiT-ResNet; got one in timm's naming (the weights of BiT are released as .npz)",
        ),
        ("nothing.safetensors", {"stages.0.blocks.0.norm1.running_mean": (9,)}, BATCH),
        ("nothing.safetensors", {"layer1.0.bn1.running_mean": (9,)}, BATCH),
        # None of these families.
        ("nothing.safetensors", {"layers.0.blocks.0.attn.qkv.weight": (9, 3)}, UNKNOWN + ".safet"),
        ("nothing.npz", {"ConvNext_0/kernel": (9, 3)}, UNKNOWN + ".npz: ConvNext_0/kernel"),
        # A file of ours with the other suffix.
        ("nothing.safetensors", {"MixerBlock_0/LayerNorm_0/bias": (9,)}, UNKNOWN + ".safetensors"),
        ("nothing.npz", {"blocks.0.mlp_tokens.fc1.weight": (9, 3)}, UNKNOWN + ".npz: blocks.0."),
    ],
)
def test_what_is_not_supported_is_named(name, change, words, tmp_path):
    arrays = {
        key: array if array is None or isinstance(array, np.ndarray) else np.ones(array, "float32")
        for key, array in (base(name) | change).items()
    }
    arrays = {key: array for key, array in arrays.items() if array is not None}
    path = tmp_path / name
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path, {"num_heads": "4"})
    with pytest.raises(ValueError, match=f"Cannot load .*{name}.*{re.escape(words)}"):
        load_params(path)


@pytest.mark.parametrize("name", ["vit.safetensors", "mixer.safetensors", "gmlp.safetensors"])
def test_what_is_supported_is_not_taken_for_something_else(name, tmp_path):
    safetensors.numpy.save_file(base(name), tmp_path / name, {"num_heads": "4"})
    assert "head" in load_params(tmp_path / name)


def test_names_of_a_mixer_are_enough_to_say_what_is_missing(tmp_path):
    arrays = dict(np.load(GOLDEN / "mixer_tiny.npz"))
    some = {name: array for name, array in arrays.items() if "MixerBlock_1" in name}
    np.savez(tmp_path / "w.npz", **some)
    with pytest.raises(ValueError, match="Expected a 'stem/kernel' .* Load the weights of an MLP"):
        load_params(tmp_path / "w.npz")

"""The keys of `config.model`: the fields of all families; each family has those it knows."""

import functools

from mixer.config.key import Key

_free = functools.partial(Key, is_free=True)
_optional = functools.partial(Key, is_optional=True)
_CODE = "authors' public code"
# Families that are made of MLPs.
_WITH_MLP = ("mixer", "vit", "gmlp", "permuted_mixer", "mixer_variant")

MODEL = {
    "model.name": Key(
        str,
        "mixer, vit, bit, gmlp, permuted_mixer, permuted_bit, mixer_variant",
        "the family, a key of `MODELS` in `mixer/models/__init__.py`; the last three are of "
        "experiments",
    ),
    "model.variant": _optional(
        str,
        "S/32, S/16, B/32, B/16, L/32, L/16, H/14, Ti/16, R50x1, R50x2, R50x3, R101x1, R101x3, "
        "R152x1, R152x2, R152x4, R200x3",
        "a size of the family: sets its sizes below, which override it",
        "Table 1",
    ),
    "model.num_blocks": _optional(
        int, "1 <= x <= 1000", "blocks of `mixer`, `vit` and `gmlp`", "Table 1"
    ),
    "model.patch_size": _optional(int, "1 <= x <= 8192", "side of a patch in pixels", "Table 1"),
    "model.hidden_dim": _optional(int, "1 <= x <= 131072", "channels C", "Table 1"),
    "model.tokens_mlp_dim": _optional(
        int, "1 <= x <= 131072", "hidden units of the token-mixing MLP, D_S", "Table 1"
    ),
    "model.channels_mlp_dim": _optional(
        int, "1 <= x <= 131072", "hidden units of the channel-mixing MLP, D_C", "Table 1"
    ),
    "model.mlp_dim": _optional(
        int, "1 <= x <= 131072", "hidden units of the MLPs of `vit` and `gmlp`", "ViT paper"
    ),
    "model.num_heads": _optional(
        int, "1 <= x <= 131072; divides `hidden_dim`", "attention heads of `vit`", "ViT paper"
    ),
    "model.pool": _optional(
        str, "token, gap", "features of `vit`: the class token, or the mean of all", "ViT paper"
    ),
    "model.representation_size": _optional(
        int,
        "0 <= x <= 131072",
        "width of a layer with tanh before the head of `vit`; 0 = none",
        "ViT paper",
    ),
    "model.block_sizes": _optional(
        tuple, "1 <= x <= 1000", "units of each block of `bit`", "BiT paper", items=int
    ),
    "model.width": _optional(
        float, "0 < x <= 1000; a multiple of 0.5", "factor of the channels of `bit`", "BiT paper"
    ),
    "model.version": _optional(
        str,
        "v2, v1",
        "of `bit`: normalised before the convolutions, as in the BiT paper, or after them",
        _CODE,
    ),
    "model.permutation": _optional(
        str,
        "patches, pixels",
        "of `permuted_mixer` and `permuted_bit`: patches and the pixels in each, or all pixels",
        "Figure 4",
    ),
    "model.permuted_patch_size": _optional(
        int,
        "1 <= x <= 8192",
        "side of the permuted patches of `permuted_bit` in pixels",
        "Figure 4",
    ),
    "model.token_mixing": _optional(
        str,
        "untied, grouped, views, pyramid",
        "of `mixer_variant`: an MLP per channel; over neighbouring channels at once; over linear "
        "views of them; to fewer tokens",
        "Appendix A.1",
    ),
    "model.groups": _optional(
        int,
        "1 <= x <= 131072; divides `hidden_dim`",
        "groups or views of `mixer_variant`",
        "Appendix A.1",
    ),
    "model.halved_after": _optional(
        tuple,
        "0 <= x <= 1000",
        "blocks of `mixer_variant`, from 0, whose token mixing halves the tokens",
        "Appendix A.1",
        items=int,
    ),
    "model.gelu_approximate": _optional(
        bool,
        "",
        "tanh GELU, as the released weights; False = exact, as PyTorch's",
        _CODE,
        needed_by=_WITH_MLP,
    ),
    "model.dropout_rate": _optional(
        float,
        "0 <= x < 1",
        "after the GELU and the second layer of every MLP; `vit`: also after the attention and "
        "the position embedding; 0 = off",
        "Table 4",
        needed_by=_WITH_MLP,
    ),
    "model.stochastic_depth_rate": _optional(
        float,
        "0 <= x < 1",
        "of the last block, growing linearly from 0 at the first; 0 = off",
        "Table 4",
        needed_by=_WITH_MLP,
    ),
    "model.head_bias_init": Key(
        float, "-1000 <= x <= 1000", "constant the head's bias starts from", _CODE
    ),
    "model.dtype": Key(
        str,
        "float32, bfloat16",
        "of the activations; parameters, normalisation statistics, logits and loss stay float32",
        "ours",
    ),
    "model.remat": _free(
        str,
        "none, elementwise, block",
        "what the backward pass recomputes: nothing; what lies between products or convolutions; "
        "whole blocks",
    ),
}

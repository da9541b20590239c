"""Fine-tuning as in the paper: published or own weights on another dataset, at 224 pixels or more.

Models:   B/16 (default), L/16, B/32, S/16, S/32; ViT-B/16, ViT-L/16, ViT-B/32, ViT-S/16, ViT-S/32,
          ViT-Ti/16, ViT-L/32, ViT-H/14; BiT-R50x1, BiT-R50x3, BiT-R101x1, BiT-R101x3, BiT-R152x2,
          BiT-R152x4; gMLP-S/16, for which weights are published; the other sizes of these families
          with --config.init_from=YOURS; Ti/4, that of configs/digits.py, at 16 or 32 pixels
Datasets: cifar10 (default), cifar100, pets, flowers, imagenet, digits, folder:PATH
Options:  pixels, 448 for Mixer, 384, 448 or 512 for ViT (518: H/14), also 128 or 480 for BiT;
          inception_crop (Appendix A.2); v1 (BiT-ResNets that were trained with Adam)
Run:      10,000 steps of 512 images; 20,000 on ImageNet, 500 on Pets and Flowers; on the digits
          200 steps of 64
Command:  python -m mixer.main --config=configs/finetune.py:B/16,cifar10 --workdir=runs/B16_cifar10
          python -m mixer.main --config=configs/finetune.py:L/16,imagenet,448 --workdir=runs/L16_448
          python -m mixer.main --config=configs/finetune.py:ViT-B/16,cifar10,384 \
              --workdir=runs/ViT_B16_cifar10
Hardware: by the rehearsal a TPU v3-8 holds B/16: 2.3 GiB a core at 224 pixels, 7.9 at 448
Expected: CIFAR-10 at 224 pixels, with the authors' public fine-tuning code:

            imagenet1k/...  imagenet21k/...
    B/16    96.72           96.82
    L/16    96.59           98.34

          ImageNet, ReaL and the mean of five datasets: the paper's Table 3.
          At 384 pixels, from imagenet21k/..., with the public code of the ViT's authors:

                CIFAR-10  CIFAR-100  ImageNet
    ViT-B/16    99.02     92.06      84.53
    ViT-B/32    98.88     92.31      81.66
    ViT-L/16    99.13     92.91      84.47
    ViT-L/32    99.06     93.29      81.89

          BiT-M-R50x1 with the public code of the BiT's authors: CIFAR-10 97.3, CIFAR-100 86.4 at
          128 pixels, ImageNet 80.68 at 480
Measured: Ti/4,digits,32 from configs/digits.py: 97.80% (356 of 364), 2 CPU cores, 2026-11-21; on a
          part of CIFAR-10: CHANGELOG.md; nothing else yet

The learning rate is chosen on `minival`, training images that are held out: scripts/sweep.py. What
did not help the paper's authors (Appendix A.2): --config.mixup_alpha=0.5,
--config.polyak_decay=0.999, the option inception_crop.

The released BiT-ResNets, `v2`, get the BiT-HyperRule of their paper, whose own resolutions are 128
pixels on CIFAR, 480 for R152x4, and else 384. The `v1` of Table 3 get what all other models get, as
in the ViT paper, which takes the better of the two.
"""

from ml_collections import ConfigDict

from mixer.config import base_config
from mixer.errors import unknown_name
from mixer.models import MODELS, named

# model -> the published weights to begin with
WEIGHTS = {
    "S/32": "gsam/Mixer-S_32",
    "S/16": "gsam/Mixer-S_16",
    "B/32": "sam/Mixer-B_32",
    "B/16": "imagenet21k/Mixer-B_16",
    "L/16": "imagenet21k/Mixer-L_16",
    "Ti/4": "runs/digits",
    "ViT-Ti/16": "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0",
    "ViT-S/32": "augreg/S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0",
    "ViT-S/16": "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0",
    "ViT-B/32": "augreg/B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0",
    "ViT-B/16": "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0",
    "ViT-L/32": "imagenet21k/ViT-L_32",
    "ViT-L/16": "augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0",
    "ViT-H/14": "imagenet21k/ViT-H_14",
    "BiT-R50x1": "bit_models/BiT-M-R50x1",
    "BiT-R50x3": "bit_models/BiT-M-R50x3",
    "BiT-R101x1": "bit_models/BiT-M-R101x1",
    "BiT-R101x3": "bit_models/BiT-M-R101x3",
    "BiT-R152x2": "bit_models/BiT-M-R152x2",
    "BiT-R152x4": "bit_models/BiT-M-R152x4",
    "gMLP-S/16": "timm/gmlp_s16_224.ra3_in1k",
}
_NONE = "none is published: set init_from"
SIZES = (
    *WEIGHTS,
    *("L/32", "H/14", "BiT-R50x2", "BiT-R152x1", "BiT-R200x3", "gMLP-Ti/16", "gMLP-B/16"),
)

# name -> dataset, percent trained on (the rest is the minival), test split, steps, warm-up steps.
# Steps: the ViT paper, to which section 3 refers, and the BiT paper. Percent, warm-up: the authors'
# public code.
DATASETS = {
    "cifar10": ("cifar10", 98, "test", 10_000, 500),
    "cifar100": ("cifar100", 98, "test", 10_000, 500),
    "pets": ("oxford_iiit_pet", 90, "test", 500, 100),
    "flowers": ("oxford_flowers102", 90, "test", 500, 100),
    "imagenet": ("imagenet2012", 99, "validation", 20_000, 500),
    "digits": ("digits", 90, "test", 200, 20),
    "folder:PATH": ("", 90, "test", 10_000, 500),
}

# family -> pixels: those of the weights, and larger ones; ViT's must be multiples of the patches
RESOLUTIONS = {
    "mixer": (224, 448),
    "vit": (224, 384, 448, 512, 518),
    "bit": (224, 128, 384, 448, 480, 512),
    "gmlp": (224,),
}
# Pixels of the shorter side before the crop, if it is not 256 for 224 (Appendix C).
# Source: the BiT paper, section 3.3; 384 also the authors' public code
BEFORE_CROP = {128: 160, 384: 448, 480: 512}

# Section 3: the learning rates tried on every dataset.
SWEEP = {"optimizer.learning_rate": (0.003, 0.01, 0.03, 0.06)}


def get_config(what: str = "B/16,cifar10") -> ConfigDict:
    """Returns the config of "SIZE[,DATASET][,OPTION ...]"; ValueError for what is unknown."""
    size, *others = what.removeprefix("Mixer-").split(",")
    if size not in SIZES:
        raise unknown_name("size of finetune.py", size, SIZES)
    name = others.pop(0) if others else "cifar10"
    is_folder = name.startswith("folder:")
    if name not in DATASETS and not is_folder:
        raise unknown_name("dataset of finetune.py", name, DATASETS)
    dataset, percent, test_split, steps, warmup_steps = DATASETS[
        "folder:PATH" if is_folder else name
    ]
    image_size = _resolution(size, others)
    tiny, digits = size == "Ti/4", name == "digits"
    by_rule = size.startswith("BiT-") and "v1" not in others  # the BiT-HyperRule

    config = base_config()
    config.dataset = name if is_folder else dataset
    config.train_split = f"train[:{percent}%]"
    config.eval_splits = ConfigDict({"minival": f"train[{percent}%:]", "test": test_split})
    config.image_size = image_size
    before_crop = BEFORE_CROP.get(image_size, image_size * 256 // 224)
    config.eval_crop = "resize_crop"  # Appendix C; the BiT paper, section 2.2
    config.eval_resize = image_size if tiny or by_rule else before_crop
    config.batch_size = 64 if digits else 512  # section 3; the same in the BiT paper
    config.num_steps = steps
    config.num_stripes = 8  # the same batches for 1, 2, 4 and 8 hosts

    config.train_crop = ConfigDict()
    if "inception_crop" in others:
        config.train_crop.name = "inception_crop"
        config.train_crop.area = (0.05, 1.0)  # Source: the authors' public code
    else:
        config.train_crop.name = "random_crop"
        config.train_crop.resize = before_crop
    config.flip = not digits  # mirrored digits are not digits
    config.randaugment = ConfigDict({"layers": 0, "magnitude": 0.0})
    # The BiT-HyperRule: mixup on datasets of 20,000 images or more, which get 10,000 steps or more.
    config.mixup_alpha = 0.1 if by_rule and steps >= 10_000 else 0.0
    config.loss = "softmax"

    config.init_from = _NONE if "v1" in others else WEIGHTS.get(size, _NONE)
    config.model = _model(size, image_size)
    if "v1" in others:
        config.model.version = "v1"
    config.optimizer = _optimizer(by_rule)
    config.optimizer.warmup_steps = warmup_steps

    config.eval_every = min(steps, 1000)
    config.checkpoint_every = min(steps, 1000)
    config.best_by = "minival/top1"
    return config


def _resolution(size: str, options: list[str]) -> int:
    """Returns the resolution among the options, or that of the weights; checks all options."""
    known: tuple[int, ...] = (16, 32)
    if size != "Ti/4":
        family, variant = named(size)
        patch_size = MODELS[family][1][variant].get("patch_size", 1)
        known = tuple(pixels for pixels in RESOLUTIONS[family] if pixels % patch_size == 0)
    names = [*map(str, known), "inception_crop", *["v1"] * size.startswith("BiT-")]
    for option in options:
        if option not in names:
            raise unknown_name(f"option of finetune.py for {size}", option, names)
    asked = [int(option) for option in options if option.isdecimal()]
    if len(asked) > 1:
        raise ValueError(f"Expected one resolution for {size}; got {asked}. Leave one.")
    return asked[0] if asked else known[0]


def _model(size: str, image_size: int) -> ConfigDict:
    """Returns the model, for images of that side in pixels."""
    family, variant = ("mixer", "") if size == "Ti/4" else named(size)
    model = ConfigDict()
    model.name = family
    if size == "Ti/4":
        model.update(patch_size=4, num_blocks=4, hidden_dim=64, channels_mlp_dim=256)
        model.tokens_mlp_dim = (image_size // 16) ** 2 * 32
    else:
        model.variant = variant
        if family == "mixer":  # Appendix C: K x K copies of the token-mixing MLP
            tokens_mlp_dim = MODELS["mixer"][1][variant]["tokens_mlp_dim"]
            model.tokens_mlp_dim = (image_size // 224) ** 2 * tokens_mlp_dim
    if family == "vit":
        model.pool = "token"
        model.representation_size = 0  # Appendix B.1.1 of the ViT paper
    if family == "bit":
        model.version = "v2"
    else:
        # As the published weights: tanh; PyTorch's, of gMLP, have the exact GELU.
        model.gelu_approximate = family != "gmlp"
        model.dropout_rate = 0.0
        model.stochastic_depth_rate = 0.0
    model.head_bias_init = 0.0  # a fresh head of zeros
    model.dtype = "float32" if size == "Ti/4" else "bfloat16"
    model.remat = "none"
    return model


def _optimizer(by_rule: bool) -> ConfigDict:
    """Returns the optimizer of section 3, or that of the BiT-HyperRule (the BiT paper, 3.3)."""
    optimizer = ConfigDict()
    optimizer.name = "momentum"  # section 3
    optimizer.momentum = 0.9  # Source: the authors' public code
    optimizer.momentum_dtype = "float32"
    optimizer.weight_decay = 0.0  # section 3; the BiT paper, section 2.2
    if by_rule:
        optimizer.learning_rate = 0.003
        optimizer.decay = "staircase"
        optimizer.decay_at = (0.3, 0.6, 0.9)
        optimizer.clip_global_norm = 0.0
    else:
        optimizer.learning_rate = 0.03  # of the grid
        optimizer.decay = "cosine"  # section 3
        optimizer.end_learning_rate = 0.0
        optimizer.clip_global_norm = 1.0  # section 3
    return optimizer

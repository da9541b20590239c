"""Fine-tuning as in the paper: published or own weights on another dataset, at 224 or 448 pixels.

Sizes:    B/16 (default), L/16, B/32, S/16, S/32, for which weights are published; L/32 and H/14
          with --config.init_from=YOURS; Ti/4, that of configs/digits.py, at 16 or 32 pixels
Datasets: cifar10 (default), cifar100, pets, flowers, imagenet, digits, folder:PATH
Options:  448 (pixels), inception_crop (Appendix A.2)
Run:      10,000 steps of 512 images; 20,000 on ImageNet, 500 on Pets and Flowers; on the digits
          200 steps of 64
Command:  python -m mixer.main --config=configs/finetune.py:B/16,cifar10 --workdir=runs/B16_cifar10
          python -m mixer.main --config=configs/finetune.py:L/16,imagenet,448 --workdir=runs/L16_448
Hardware: by the rehearsal a TPU v3-8 holds B/16: 2.3 GiB a core at 224 pixels, 7.9 at 448
Expected: CIFAR-10 at 224 pixels, with the authors' public fine-tuning code:

            imagenet1k/...  imagenet21k/...
    B/16    96.72           96.82
    L/16    96.59           98.34

          ImageNet, ReaL and the mean of five datasets: the paper's Table 3.
Measured: Ti/4,digits,32 from configs/digits.py: 97.80% (356 of 364), 2 CPU cores, 2026-11-21; on a
          part of CIFAR-10: CHANGELOG.md; nothing else yet

The learning rate is chosen on `minival`, training images that are held out: scripts/sweep.py. What
did not help the paper's authors (Appendix A.2): --config.mixup_alpha=0.5,
--config.polyak_decay=0.999, the option inception_crop.
"""

from ml_collections import ConfigDict

from mixer.config import base_config
from mixer.errors import unknown_name

# size -> the published weights to begin with
WEIGHTS = {
    "S/32": "gsam/Mixer-S_32",
    "S/16": "gsam/Mixer-S_16",
    "B/32": "sam/Mixer-B_32",
    "B/16": "imagenet21k/Mixer-B_16",
    "L/32": "none is published: set init_from",
    "L/16": "imagenet21k/Mixer-L_16",
    "H/14": "none is published: set init_from",
    "Ti/4": "runs/digits",
}
SIZES = tuple(WEIGHTS)

# name -> dataset, percent trained on (the rest is the minival), test split, steps, warm-up steps.
# Steps: the ViT paper, to which section 3 refers. Percent, warm-up: the authors' public code.
DATASETS = {
    "cifar10": ("cifar10", 98, "test", 10_000, 500),
    "cifar100": ("cifar100", 98, "test", 10_000, 500),
    "pets": ("oxford_iiit_pet", 90, "test", 500, 100),
    "flowers": ("oxford_flowers102", 90, "test", 500, 100),
    "imagenet": ("imagenet2012", 99, "validation", 20_000, 500),
    "digits": ("digits", 90, "test", 200, 20),
    "folder:PATH": ("", 90, "test", 10_000, 500),
}
OPTIONS = ("448", "32", "inception_crop")

# Section 3: the learning rates tried on every dataset.
SWEEP = {"optimizer.learning_rate": (0.003, 0.01, 0.03, 0.06)}


def get_config(what: str = "B/16,cifar10") -> ConfigDict:
    """Returns the config of "SIZE[,DATASET][,OPTION ...]"; ValueError for what is unknown."""
    size, *others = what.split(",")
    if size not in SIZES:
        raise unknown_name("size of finetune.py", size, SIZES)
    name = others.pop(0) if others else "cifar10"
    is_folder = name.startswith("folder:")
    if name not in DATASETS and not is_folder:
        raise unknown_name("dataset of finetune.py", name, DATASETS)
    dataset, percent, test_split, steps, warmup_steps = DATASETS[
        "folder:PATH" if is_folder else name
    ]
    tiny, digits = size == "Ti/4", name == "digits"
    pretrained_at = 16 if tiny else 224
    for option in others:
        if option not in OPTIONS or option == ("448" if tiny else "32"):
            raise unknown_name(f"option of finetune.py for {size}", option, OPTIONS)
    factor = 2 if {"448", "32"} & set(others) else 1  # the K of Appendix C

    config = base_config()
    config.dataset = name if is_folder else dataset
    config.train_split = f"train[:{percent}%]"
    config.eval_splits = ConfigDict({"minival": f"train[{percent}%:]", "test": test_split})
    config.image_size = factor * pretrained_at
    config.eval_crop = "resize_crop"  # Appendix C
    config.eval_resize = config.image_size if tiny else factor * 256
    config.batch_size = 64 if digits else 512  # section 3
    config.num_steps = steps
    config.num_stripes = 8  # the same batches for 1, 2, 4 and 8 hosts

    config.train_crop = ConfigDict()
    if "inception_crop" in others:
        config.train_crop.name = "inception_crop"
        config.train_crop.area = (0.05, 1.0)  # Source: the authors' public code
    else:
        config.train_crop.name = "random_crop"
        config.train_crop.resize = config.image_size * 256 // 224
    config.flip = not digits  # mirrored digits are not digits
    config.randaugment = ConfigDict({"layers": 0, "magnitude": 0.0})
    config.mixup_alpha = 0.0
    config.loss = "softmax"

    config.init_from = WEIGHTS[size]
    config.model = ConfigDict()
    config.model.name = "mixer"
    if tiny:
        config.model.patch_size = 4
        config.model.num_blocks = 4
        config.model.hidden_dim = 64
        config.model.channels_mlp_dim = 256
    else:
        config.model.variant = size
    # Appendix C: K x K copies of the token-mixing MLP.
    tokens_mlp_dim = {"S": 256, "B": 384, "L": 512, "H": 640, "T": 32}[size[0]]
    config.model.tokens_mlp_dim = factor**2 * tokens_mlp_dim
    config.model.gelu_approximate = True  # as the published weights; False for PyTorch's
    config.model.dropout_rate = 0.0
    config.model.stochastic_depth_rate = 0.0
    config.model.head_bias_init = 0.0  # a fresh head of zeros
    config.model.dtype = "float32" if tiny else "bfloat16"
    config.model.remat = "none"

    config.optimizer = ConfigDict()
    config.optimizer.name = "momentum"  # section 3
    config.optimizer.learning_rate = 0.03  # of the grid
    config.optimizer.warmup_steps = warmup_steps
    config.optimizer.decay = "cosine"  # section 3
    config.optimizer.end_learning_rate = 0.0
    config.optimizer.momentum = 0.9  # Source: the authors' public code
    config.optimizer.momentum_dtype = "float32"
    config.optimizer.clip_global_norm = 1.0  # section 3

    config.eval_every = min(steps, 1000)
    config.checkpoint_every = min(steps, 1000)
    config.best_by = "minival/top1"
    return config

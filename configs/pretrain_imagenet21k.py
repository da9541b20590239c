"""Mixer, ViT and BiT on ImageNet-21k: the rows of ImageNet-21k in Tables 2, 3 and 4.

Models:   B/32, B/16 (default), L/32, L/16; ViT-B/16, ViT-L/16; ViT-L/16,90: 90 epochs; BiT-R152x4
Run:      300 epochs of train[51200:], 14,145,922 images of the release of 2011: 1,036,078 steps of
          4,096 images; ViT-L/16,90 and BiT-R152x4: 90 epochs, 310,823 steps
Command:  python -m mixer.main --config=configs/pretrain_imagenet21k.py:B/16 --workdir=runs/21k_B16
          python -m mixer.main --config=configs/pretrain_imagenet21k.py:ViT-L/16,90 \
              --workdir=runs/21k_ViT_L16
Hardware: a TPU slice whose number of cores divides 4,096; the BiT paper: TPU v3-512
Expected: the paper's Table 3, which is after fine-tuning on ImageNet at 224 pixels:

                  ImageNet  ReaL   5 datasets  images/s/core  TPU-v3 core-days
                  top-1     top-1  top-1       (inference)    (pre-training)
    B/16          80.64     85.8   92.5        1384           150
    L/16          82.89     87.54  93.63       419            410
    ViT-B/16      84.59     88.93  94.16       861            180
    ViT-L/16      84.46     88.35  94.49       280            550

          and Table 2, after fine-tuning at 512 and 480 pixels:

    ViT-L/16,90   85.3      88.62  94.39       32             180
    BiT-R152x4    85.39     -      94.04       26             940

          Core-days of Table 3 are extrapolated from JFT-300M; B/32 and L/32 have no row.
Measured: not yet run

The paper has Table 3's ViT rows from the ViT's authors and prints no recipe: "300 epochs" and
"extra regularization" are what AugReg (arXiv:2106.10270) does. ViTs get the settings that its
authors recommend, their best by validation. Table 2's rows are those of the ViT and BiT papers.

`minival` is the first 51,200 images, which are not trained on; a dataset written by TFDS
or scripts/prepare_dataset.py is shuffled on disk, so they are of all classes.
"""

from ml_collections import ConfigDict

from mixer.config import base_config
from mixer.errors import unknown_name
from mixer.models import MODELS, named

# epochs, RandAugment's magnitude, mixup p, dropout, stochastic depth, decay of the learning rate,
# weight decay, largest norm of the gradient
SIZES = {
    # Table 4; decay and norm: section 3
    "B/32": (300.0, 10.0, 0.2, 0.0, 0.1, "linear", 0.1, 1.0),
    "B/16": (300.0, 10.0, 0.2, 0.0, 0.1, "linear", 0.1, 1.0),
    "L/32": (300.0, 20.0, 0.5, 0.0, 0.1, "linear", 0.1, 1.0),
    "L/16": (300.0, 20.0, 0.5, 0.0, 0.1, "linear", 0.1, 1.0),
    # AugReg, sections 3.3 and 3.4: medium1; strong1
    "ViT-B/16": (300.0, 15.0, 0.2, 0.0, 0.0, "cosine", 0.1, 1.0),
    "ViT-L/16": (300.0, 20.0, 0.5, 0.0, 0.0, "cosine", 0.1, 1.0),
    # Table 3 of the ViT paper
    "ViT-L/16,90": (90.0, None, 0.0, 0.1, 0.0, "linear", 0.03, 0.0),
    # Section 3.3 of the BiT paper
    "BiT-R152x4": (90.0, None, 0.0, 0.0, 0.0, "staircase", 1e-4, 0.0),
}

# What the paper tried for Mixer (Appendix B; it does not say whether in every combination).
SWEEP = {
    "randaugment.magnitude": (0.0, 10.0, 15.0, 20.0),
    "mixup_alpha": (0.0, 0.2, 0.5, 0.8),
    "model.dropout_rate": (0.0, 0.1),
    "model.stochastic_depth_rate": (0.0, 0.1),
    "optimizer.learning_rate": (3e-3, 1e-3),
    "optimizer.weight_decay": (0.1, 0.01),
}


def get_config(size: str = "B/16") -> ConfigDict:
    """Returns the config of a model; raises ValueError for one that there is no recipe for."""
    size = size.removeprefix("Mixer-")
    if size not in SIZES:
        raise unknown_name("size of pretrain_imagenet21k.py", size, SIZES)
    epochs, magnitude, mixup_alpha, dropout, depth, decay, weight_decay, norm = SIZES[size]
    family, variant = named(size.partition(",")[0])
    config = base_config()
    config.dataset = "imagenet21k"
    config.train_split = "train[51200:]"  # Source: the authors' public code
    config.eval_splits = ConfigDict({"minival": "train[:51200]"})
    config.image_size = 224  # section 3; the same in the ViT and BiT papers
    config.eval_crop = "resmall_crop"  # Appendix C: 224 of 256 pixels
    config.eval_resize = 256  # Appendix C
    config.batch_size = 4096  # section 3; the same in the ViT and BiT papers
    config.num_epochs = epochs
    config.num_stripes = 64  # the same batches for every number of hosts that divides 64

    config.train_crop = ConfigDict()
    config.train_crop.name = "inception_crop"
    config.train_crop.area = (0.05, 1.0)  # Source: the authors' public code
    config.flip = True  # Source: as above
    layers = 0 if magnitude is None else 2  # Table 4; AugReg, section 3.3
    config.randaugment = ConfigDict({"layers": layers, "magnitude": magnitude or 0.0})
    config.mixup_alpha = mixup_alpha
    config.loss = "sigmoid"  # Source: the authors' public code

    config.model = ConfigDict()
    config.model.name = family
    config.model.variant = variant
    if family == "bit":
        config.model.version = "v2"
    else:
        config.model.gelu_approximate = True  # Source: the authors' public code
        config.model.dropout_rate = dropout
        config.model.stochastic_depth_rate = depth
    if family == "vit":
        config.model.pool = "token"  # ViT paper
        # The head's hidden layer is the ViT paper's; AugReg has none (section 3.2).
        width = MODELS["vit"][1][variant]["hidden_dim"]
        config.model.representation_size = width if epochs == 90 else 0
    config.model.head_bias_init = -10.0  # Source: the authors' public code
    config.model.dtype = "bfloat16"  # Deviation: the papers do not say
    config.model.remat = "none"

    config.optimizer = _sgd() if family == "bit" else _adam()
    config.optimizer.decay = decay
    config.optimizer.weight_decay = weight_decay
    config.optimizer.clip_global_norm = norm
    if decay != "staircase":  # Source: the authors' public code
        config.optimizer.end_learning_rate = 1e-5 if decay == "linear" else 0.0

    config.eval_every = 5000
    return config


def _adam() -> ConfigDict:
    optimizer = ConfigDict()
    optimizer.name = "adam"
    optimizer.learning_rate = 1e-3  # Table 4; AugReg, section 3.3; Table 3 of the ViT paper
    optimizer.warmup_steps = 10_000  # section 3; the same in the ViT paper and AugReg
    optimizer.beta1 = 0.9  # section 3
    optimizer.beta2 = 0.999  # section 3
    optimizer.mu_dtype = "float32"  # ours
    return optimizer


def _sgd() -> ConfigDict:
    """Section 3.3 of the BiT paper."""
    optimizer = ConfigDict()
    optimizer.name = "momentum"
    optimizer.learning_rate = 0.03 * 4096 / 256
    optimizer.warmup_steps = 5000
    optimizer.decay_at = (30 / 90, 60 / 90, 80 / 90)
    optimizer.momentum = 0.9
    optimizer.momentum_dtype = "float32"  # ours
    return optimizer

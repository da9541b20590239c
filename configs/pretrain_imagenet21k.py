"""Mixer-B and Mixer-L on ImageNet-21k: Table 4, the rows of ImageNet-21k.

Sizes:    B/32, B/16 (default), L/32, L/16
Run:      300 epochs of train[51200:], 14,145,922 images of the release of 2011: 1,036,078 steps of
          4,096 images
Command:  python -m mixer.main --config=configs/pretrain_imagenet21k.py:B/16 --workdir=runs/21k_B16
Hardware: a TPU slice whose number of cores divides 4,096
Expected: the paper's Table 3, which is after fine-tuning on ImageNet at 224 pixels:

            ImageNet  ReaL   5 datasets  images/s/core  TPU-v3 core-days
            top-1     top-1  top-1       (inference)    (pre-training)
    B/16    80.64     85.8   92.5        1384           150
    L/16    82.89     87.54  93.63       419            410

          There the core-days are extrapolated from JFT-300M; B/32 and L/32 have no row.
Measured: not yet run

`minival` is the first 51,200 images, which are not trained on; a dataset written by TFDS
or scripts/prepare_dataset.py is shuffled on disk, so they are of all classes.
"""

from ml_collections import ConfigDict

from mixer.config import base_config
from mixer.errors import unknown_name

# Table 4: RandAugment's magnitude and mixup p.
SIZES = {"B/32": (10.0, 0.2), "B/16": (10.0, 0.2), "L/32": (20.0, 0.5), "L/16": (20.0, 0.5)}

# What the paper tried (Appendix B; it does not say whether in every combination).
SWEEP = {
    "randaugment.magnitude": (0.0, 10.0, 15.0, 20.0),
    "mixup_alpha": (0.0, 0.2, 0.5, 0.8),
    "model.dropout_rate": (0.0, 0.1),
    "model.stochastic_depth_rate": (0.0, 0.1),
    "optimizer.learning_rate": (3e-3, 1e-3),
    "optimizer.weight_decay": (0.1, 0.01),
}


def get_config(size: str = "B/16") -> ConfigDict:
    """Returns the config of a size; raises ValueError for one that the paper has no recipe for."""
    if size not in SIZES:
        raise unknown_name("size of pretrain_imagenet21k.py", size, SIZES)
    magnitude, mixup_alpha = SIZES[size]
    config = base_config()
    config.dataset = "imagenet21k"
    config.train_split = "train[51200:]"  # Source: the authors' public code
    config.eval_splits = ConfigDict({"minival": "train[:51200]"})
    config.image_size = 224  # section 3
    config.eval_crop = "resmall_crop"  # Appendix C: 224 of 256 pixels
    config.eval_resize = 256  # Appendix C
    config.batch_size = 4096  # section 3
    config.num_epochs = 300.0  # Table 4
    config.num_stripes = 64  # the same batches for every number of hosts that divides 64

    config.train_crop = ConfigDict()
    config.train_crop.name = "inception_crop"
    config.train_crop.area = (0.05, 1.0)  # Source: the authors' public code
    config.flip = True  # Source: as above
    config.randaugment = ConfigDict({"layers": 2, "magnitude": magnitude})
    config.mixup_alpha = mixup_alpha
    config.loss = "sigmoid"  # Source: the authors' public code

    config.model = ConfigDict()
    config.model.name = "mixer"
    config.model.variant = size
    config.model.gelu_approximate = True  # Source: the authors' public code
    config.model.dropout_rate = 0.0  # Table 4
    config.model.stochastic_depth_rate = 0.1  # Table 4
    config.model.head_bias_init = -10.0  # Source: the authors' public code
    config.model.dtype = "bfloat16"  # Deviation: the paper does not say
    # Saves 2 of 13 GiB per TPU v3 core for 1% of the time (docs/performance.md).
    config.model.remat = "elementwise" if size == "L/16" else "none"

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3  # Table 4
    config.optimizer.warmup_steps = 10_000  # section 3
    config.optimizer.decay = "linear"  # section 3
    config.optimizer.end_learning_rate = 1e-5  # Source: the authors' public code
    config.optimizer.beta1 = 0.9  # section 3
    config.optimizer.beta2 = 0.999  # section 3
    config.optimizer.weight_decay = 0.1  # Table 4
    config.optimizer.clip_global_norm = 1.0  # section 3
    config.optimizer.mu_dtype = "float32"  # ours

    config.eval_every = 5000
    return config

"""Mixer-S, -B, -L and -H on JFT-300M: Table 4, the rows of JFT-300M.

Sizes:    S/32, S/16, B/32, B/16 (default), L/32, L/16, H/14; L/32,14 and L/16,14: 14 epochs
Run:      5, 7 or 14 epochs of train[51200:], of 300 million images: 366,148, 512,608 or 1,025,216
          steps of 4,096 images
Command:  python -m mixer.main --config=configs/pretrain_jft300m.py:L/16,14 --workdir=runs/L16_14
Hardware: a TPU slice whose number of cores divides 4,096. The dataset is private.
Expected: the paper's Table 3, which is after fine-tuning on ImageNet at 224 pixels:

                    ImageNet  ReaL   5 datasets  images/s/core  TPU-v3 core-days
            epochs  top-1     top-1  top-1       (inference)    (pre-training)
    S/32    5       68.7      75.83  87.13       11489          10
    S/16    5       73.83     80.6   89.5        3994           30
    B/32    7       75.53     81.94  90.99       4208           50
    B/16    7       80.0      85.56  92.6        1384           80
    L/32    7       80.67     85.62  93.24       1314           120
    L/16    7       84.05     88.14  94.51       419            230
    L/16,14 14      84.82     88.48  94.77       419            450
    H/14    14      86.32     89.14  95.49       194            1010

          L/32 has no row for 14 epochs.
Measured: not yet run

`minival` is the first 51,200 images, which are not trained on. The smaller datasets of
Figure 2 (right): --config.train_fraction=0.03 --config.num_epochs=233.0; 0.1, 70.0; 0.3, 23.0.
"""

from ml_collections import ConfigDict

from mixer.config import base_config
from mixer.errors import unknown_name

# Table 4: epochs and learning rate.
SIZES = {
    "S/32": (5.0, 3e-3),
    "S/16": (5.0, 3e-3),
    "B/32": (7.0, 3e-3),
    "B/16": (7.0, 3e-3),
    "L/32": (7.0, 1e-3),
    "L/32,14": (14.0, 1e-3),
    "L/16": (7.0, 1e-3),
    "L/16,14": (14.0, 1e-3),
    "H/14": (14.0, 1e-3),
}


def get_config(size: str = "B/16") -> ConfigDict:
    """Returns the config of a size; raises ValueError for one that the paper has no recipe for."""
    if size not in SIZES:
        raise unknown_name("size of pretrain_jft300m.py", size, SIZES)
    epochs, learning_rate = SIZES[size]
    config = base_config()
    config.dataset = "jft300m"
    config.train_split = "train[51200:]"  # Deviation: the paper is silent
    config.eval_splits = ConfigDict({"minival": "train[:51200]"})
    config.image_size = 224  # section 3
    config.eval_crop = "resmall_crop"  # Appendix C: 224 of 256 pixels
    config.eval_resize = 256  # Appendix C
    config.batch_size = 4096  # section 3
    config.num_epochs = epochs
    config.num_stripes = 64  # the same batches for every number of hosts that divides 64

    config.train_crop = ConfigDict()
    config.train_crop.name = "inception_crop"
    config.train_crop.area = (0.05, 1.0)  # section 3
    config.flip = True
    config.randaugment = ConfigDict({"layers": 0, "magnitude": 0.0})  # Table 4: none
    config.mixup_alpha = 0.0  # Table 4: none
    config.loss = "sigmoid"  # Source: the authors' public code

    config.model = ConfigDict()
    config.model.name = "mixer"
    config.model.variant = size.partition(",")[0]
    config.model.gelu_approximate = True  # Source: the authors' public code
    config.model.dropout_rate = 0.0  # Table 4: none
    config.model.stochastic_depth_rate = 0.0  # Table 4: none
    config.model.head_bias_init = -10.0  # Source: the authors' public code for ImageNet-21k
    config.model.dtype = "bfloat16"  # Deviation: the paper does not say
    # Saves 2 of 13 GiB per TPU v3 core for 1% of the time (docs/performance.md).
    config.model.remat = "elementwise" if config.model.variant == "L/16" else "none"

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup_steps = 10_000  # section 3
    config.optimizer.decay = "linear"  # section 3
    config.optimizer.end_learning_rate = 1e-5  # Source: the authors' public code
    config.optimizer.beta1 = 0.9  # section 3
    config.optimizer.beta2 = 0.999  # section 3
    config.optimizer.weight_decay = 0.03  # Table 4
    config.optimizer.clip_global_norm = 1.0  # section 3
    config.optimizer.mu_dtype = "float32"  # ours

    config.eval_every = 5000
    return config

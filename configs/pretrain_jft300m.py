"""Mixer, ViT and BiT on JFT-300M: the rows of JFT-300M in Tables 2, 3 and 4, and of Figures 2 to 4.

Models:   S/32, S/16, B/32, B/16 (default), L/32, L/16, H/14; ViT-B/32, ViT-B/16, ViT-L/32,
          ViT-L/16, ViT-H/14; BiT-R50x1, BiT-R50x2, BiT-R152x1, BiT-R152x2, BiT-R200x3, BiT-R152x4;
          L/32,14, L/16,14, ViT-L/16,14 and BiT-R152x2,14: 14 epochs
Run:      5, 7, 14 or 40 epochs of train[51200:], of 300 million images: 366,148, 512,608, 1,025,216
          or 2,929,188 steps of 4,096 images
Command:  python -m mixer.main --config=configs/pretrain_jft300m.py:L/16,14 --workdir=runs/L16_14
          python -m mixer.main --config=configs/pretrain_jft300m.py:BiT-R50x1 --workdir=runs/R50x1
Hardware: a TPU slice whose number of cores divides 4,096. The dataset is private.
Expected: the paper's Table 3, which is after fine-tuning on ImageNet at 224 pixels:

                           ImageNet  ReaL   5 datasets  images/s/core  TPU-v3 core-days
                   epochs  top-1     top-1  top-1       (inference)    (pre-training)
    S/32           5       68.7      75.83  87.13       11489          10
    S/16           5       73.83     80.6   89.5        3994           30
    B/32           7       75.53     81.94  90.99       4208           50
    B/16           7       80.0      85.56  92.6        1384           80
    L/32           7       80.67     85.62  93.24       1314           120
    L/16           7       84.05     88.14  94.51       419            230
    L/16,14        14      84.82     88.48  94.77       419            450
    H/14           14      86.32     89.14  95.49       194            1010
    ViT-L/16,14    14      85.63     89.16  95.21       280            650
    ViT-H/14       14      86.65     89.56  95.57       87             2300
    BiT-R50x1      7       73.69     81.92  -           2159           80
    BiT-R50x2      7       78.92     86.06  -           890            140
    BiT-R152x1     7       79.12     86.12  -           932            140
    BiT-R152x2,14  14      83.34     88.9   -           356            580
    BiT-R200x3     14      84.73     89.58  -           141            1780

          and Table 2, after fine-tuning at 480 pixels:

    BiT-R152x4     40      87.54     90.54  95.33       26             9900

          The others have no row.
Measured: not yet run

ViTs and, apart from R152x4, BiTs are those of the ViT paper, which trains ResNets with Adam, too:
the network `v1` by all that is public. It does not print the learning rate of R200x3; that of the
R152s is taken. BiT-R152x4 is the BiT paper's BiT-L: `v2`, trained with SGD.

`minival` is the first 51,200 images, which are not trained on. The smaller datasets of
Figure 2 (right): --config.train_fraction=0.03 --config.num_epochs=233.0; 0.1, 70.0; 0.3, 23.0.
"""

from ml_collections import ConfigDict

from mixer.config import base_config
from mixer.errors import unknown_name
from mixer.models import MODELS, named

# epochs, learning rate, weight decay, largest norm of the gradient
SIZES = {
    # Table 4; norm: section 3
    "S/32": (5.0, 3e-3, 0.03, 1.0),
    "S/16": (5.0, 3e-3, 0.03, 1.0),
    "B/32": (7.0, 3e-3, 0.03, 1.0),
    "B/16": (7.0, 3e-3, 0.03, 1.0),
    "L/32": (7.0, 1e-3, 0.03, 1.0),
    "L/32,14": (14.0, 1e-3, 0.03, 1.0),
    "L/16": (7.0, 1e-3, 0.03, 1.0),
    "L/16,14": (14.0, 1e-3, 0.03, 1.0),
    "H/14": (14.0, 1e-3, 0.03, 1.0),
    # Table 3 of the ViT paper, which clips on ImageNet alone. 14 epochs of ResNets: our Table 3
    "ViT-B/32": (7.0, 8e-4, 0.1, 0.0),
    "ViT-B/16": (7.0, 8e-4, 0.1, 0.0),
    "ViT-L/32": (7.0, 6e-4, 0.1, 0.0),
    "ViT-L/16": (7.0, 4e-4, 0.1, 0.0),
    "ViT-L/16,14": (14.0, 4e-4, 0.1, 0.0),
    "ViT-H/14": (14.0, 3e-4, 0.1, 0.0),
    "BiT-R50x1": (7.0, 1e-3, 0.1, 0.0),
    "BiT-R50x2": (7.0, 1e-3, 0.1, 0.0),
    "BiT-R152x1": (7.0, 6e-4, 0.1, 0.0),
    "BiT-R152x2": (7.0, 6e-4, 0.1, 0.0),
    "BiT-R152x2,14": (14.0, 6e-4, 0.1, 0.0),
    "BiT-R200x3": (14.0, 6e-4, 0.1, 0.0),  # Deviation: the learning rate is not printed
    # Section 3.3 of the BiT paper
    "BiT-R152x4": (40.0, 0.03 * 4096 / 256, 1e-4, 0.0),
}


def get_config(size: str = "B/16") -> ConfigDict:
    """Returns the config of a model; raises ValueError for one that there is no recipe for."""
    size = size.removeprefix("Mixer-")
    if size not in SIZES:
        raise unknown_name("size of pretrain_jft300m.py", size, SIZES)
    epochs, learning_rate, weight_decay, norm = SIZES[size]
    family, variant = named(size.partition(",")[0])
    config = base_config()
    config.dataset = "jft300m"
    config.train_split = "train[51200:]"  # Deviation: the paper is silent
    config.eval_splits = ConfigDict({"minival": "train[:51200]"})
    config.image_size = 224  # section 3; the same in the ViT and BiT papers
    config.eval_crop = "resmall_crop"  # Appendix C: 224 of 256 pixels
    config.eval_resize = 256  # Appendix C
    config.batch_size = 4096  # section 3; the same in the ViT and BiT papers
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
    config.model.name = family
    config.model.variant = variant
    if family == "bit":
        config.model.version = "v2" if variant == "R152x4" else "v1"
    else:
        config.model.gelu_approximate = True  # Source: the authors' public code
        config.model.dropout_rate = 0.0  # Table 4: none; Table 3 of the ViT paper
        config.model.stochastic_depth_rate = 0.0  # Table 4: none
    if family == "vit":
        config.model.pool = "token"  # ViT paper
        # The hidden layer of the head, section 3.1 of the ViT paper.
        config.model.representation_size = MODELS["vit"][1][variant]["hidden_dim"]
    config.model.head_bias_init = -10.0  # Source: the authors' public code for ImageNet-21k
    config.model.dtype = "bfloat16"  # Deviation: the papers do not say
    config.model.remat = "none"

    config.optimizer = _sgd() if variant == "R152x4" else _adam()
    config.optimizer.learning_rate = learning_rate
    config.optimizer.weight_decay = weight_decay
    config.optimizer.clip_global_norm = norm

    config.eval_every = 5000
    return config


def _adam() -> ConfigDict:
    optimizer = ConfigDict()
    optimizer.name = "adam"
    optimizer.warmup_steps = 10_000  # section 3; the same in the ViT paper
    optimizer.decay = "linear"  # section 3; the same in the ViT paper
    optimizer.end_learning_rate = 1e-5  # Source: the authors' public code
    optimizer.beta1 = 0.9  # section 3; the same in the ViT paper
    optimizer.beta2 = 0.999  # section 3; the same in the ViT paper
    optimizer.mu_dtype = "float32"  # ours
    return optimizer


def _sgd() -> ConfigDict:
    """Section 3.3 of the BiT paper."""
    optimizer = ConfigDict()
    optimizer.name = "momentum"
    optimizer.warmup_steps = 5000
    optimizer.decay = "staircase"
    optimizer.decay_at = (10 / 40, 23 / 40, 30 / 40, 37 / 40)
    optimizer.momentum = 0.9
    optimizer.momentum_dtype = "float32"  # ours
    return optimizer

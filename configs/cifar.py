"""CIFAR-10 and CIFAR-100 from scratch, 32 x 32 pixels, on one machine.

Argument: SIZE[,DATASET[,short]]: 0.15M, 0.7M (default), 2M or 10M parameters; cifar10 (default),
          cifar100, or a folder of images: folder:PATH. `short`: 21 epochs instead of 300, without
          mixup and stochastic depth
Recipe:   the paper's for ImageNet (Adam with warm-up, linear decay, decoupled weight decay,
          clipping, mixup, stochastic depth), with a softmax loss, and with a padded crop instead of
          RandAugment, whose translations assume 224 pixels. Sizes keep the proportions of Table 1:
          D_C = 4 C and D_S = C / 2.
Command:  python -m mixer.main --config=configs/cifar.py:0.7M,cifar10 --workdir=runs/cifar10
Hardware: one GPU, 112,500 steps; `short`: 2 CPU cores, 8,000 steps
Expected: `short`, 0.7M: at least 70% top-1 on CIFAR-10 in 40 minutes
Measured: `short`, 0.7M, 2 CPU cores (AMD EPYC, jax 0.10.2, 2026-11-27), a device each: 76.25% in
          2,166 s, seed 0; 300 epochs: not run
"""

from ml_collections import ConfigDict

from mixer.config import base_config
from mixer.errors import unknown_name

# size -> blocks, C, D_S, D_C
SIZES = {
    "0.15M": (4, 64, 32, 256),
    "0.7M": (8, 96, 48, 384),
    "2M": (10, 160, 80, 640),
    "10M": (12, 320, 160, 1280),
}
DATASETS = ("cifar10", "cifar100")


def get_config(what: str = "0.7M,cifar10") -> ConfigDict:
    """Returns the config of "SIZE[,DATASET[,short]]"; ValueError for what is unknown."""
    is_short = what.endswith(",short")
    size, _, dataset = what.removesuffix(",short").partition(",")
    dataset = dataset or "cifar10"
    if size not in SIZES:
        raise unknown_name("size of cifar.py", size, SIZES)
    if dataset not in DATASETS and not dataset.startswith("folder:"):
        raise unknown_name("dataset of cifar.py", dataset, (*DATASETS, "folder:PATH"))

    config = base_config()
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})  # all devices share the batch
    config.dataset = dataset
    config.train_split = "train[:96%]"
    config.eval_splits = ConfigDict({"minival": "train[96%:]", "test": "test"})
    config.input = "device"  # 0.15 GB
    config.cache_eval = True
    config.image_size = config.eval_resize = 32
    config.eval_crop = "resize_crop"  # the whole image
    config.batch_size = 128
    config.steps_per_call = 10
    config.accumulation_steps = 8 if is_short else 1  # parts that fit into a CPU's caches
    if is_short:
        config.num_steps = 8000  # 40 minutes
    else:
        config.num_epochs = 300.0

    config.train_crop = ConfigDict({"name": "padded_crop", "padding": 4})
    config.flip = True
    config.randaugment = ConfigDict({"layers": 0, "magnitude": 0.0})
    config.mixup_alpha = 0.0 if is_short else 0.5
    config.loss = "softmax"

    config.model = _model(*SIZES[size], stochastic_depth_rate=0.0 if is_short else 0.1)
    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 6e-3 if is_short else 1e-3
    config.optimizer.warmup_steps = 300
    config.optimizer.decay = "linear"
    config.optimizer.end_learning_rate = 1e-5
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_global_norm = 1.0
    config.optimizer.mu_dtype = "float32"

    config.eval_every = 1000 if is_short else 3000
    config.checkpoint_every = config.eval_every
    return config


def _model(
    blocks: int, channels: int, tokens_mlp: int, channels_mlp: int, *, stochastic_depth_rate: float
) -> ConfigDict:
    model = ConfigDict({"name": "mixer", "patch_size": 4, "num_blocks": blocks})
    model.hidden_dim = channels
    model.tokens_mlp_dim = tokens_mlp
    model.channels_mlp_dim = channels_mlp
    model.gelu_approximate = True
    model.dropout_rate = 0.0
    model.stochastic_depth_rate = stochastic_depth_rate
    model.head_bias_init = 0.0
    model.dtype = "float32"
    model.remat = "none"
    return model

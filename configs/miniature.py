"""Another config of this folder, shrunk to train in seconds: what --miniature of reproduce.py runs.

Argument: FILE[:ARGUMENT], "pretrain_imagenet.py:B/16" by default. The recipe stays: optimizer,
          schedule, loss, mixup, RandAugment, stochastic depth, crops. Model, images and steps
          become tiny. All sizes of a family with patches of the same size become one.
Data:     the digits. Pre-training on parts of the first 60% of their training images, fine-tuning
          on the last 30%, of which ImageNet and the other data sets get one half each; their test
          images are halves of the test images
Command:  python -m mixer.main --config=configs/miniature.py:pretrain_jft300m.py:B/16 \
              --workdir=runs/miniature
Hardware: 1 CPU core
Expected: finished runs, not scores: after so few steps many are near chance, 10%
Measured: with `reproduce.py run all --miniature`, a fine-tuning takes 1 to 4 s of Mixer and ViT
          and 2 to 7 s of BiT (2 CPU cores, 2026-11-26)
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from mixer.models import MODELS
from mixer.runtime.command import load_config_file

# Fields of each family, apart from the patch size.
TINY: dict[str, dict[str, Any]] = {
    "mixer": {"num_blocks": 1, "hidden_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64},
    "vit": {"num_blocks": 1, "hidden_dim": 32, "mlp_dim": 64, "num_heads": 2},
    "bit": {"block_sizes": (1,), "width": 0.5},
}
# Training images of each pre-training; all hold out the same ones.
UPSTREAM = {
    "imagenet2012": "train[:20%]",
    "imagenet21k": "train[:40%]",
    "jft300m": "train[:60%]",
}
# Training, held-out and test images of each fine-tuning.
IMAGENET = ("train[70%:80%]", "train[80%:85%]", "test[:50%]")
OTHERS = ("train[85%:95%]", "train[95%:]", "test[50%:]")
STEPS, FINETUNING_STEPS = 60, 30

SWEEP = {"optimizer.learning_rate": (0.03, 0.06)}


def get_config(what: str = "pretrain_imagenet.py:B/16") -> ConfigDict:
    """Returns the shrunk config of "FILE[:ARGUMENT]"."""
    file, _, argument = what.partition(":")
    module = load_config_file(str(pathlib.Path(__file__).parent / file))
    config = module.get_config(*[argument] if argument else [])
    is_pretraining = not config.init_from
    config.model = _model(config.model, config.image_size)
    side = 16 if config.image_size in (128, 224) else 32
    resize = side if config.eval_resize == config.image_size else side * 9 // 8
    config.image_size, config.eval_resize = side, resize
    if "resize" in config.train_crop:
        config.train_crop.resize = max(resize, side)
    config.flip = False  # mirrored digits are not digits
    config.batch_size = 16
    config.num_stripes = 1
    _shrink_data(config, is_pretraining)
    _shrink_schedule(config, STEPS if is_pretraining else FINETUNING_STEPS)
    return config


def _model(model: ConfigDict, image_size: int) -> ConfigDict:
    size = dict(TINY[model.name])
    patch_size = MODELS[model.name][1][model.variant].get("patch_size")
    if patch_size:
        size["patch_size"] = 8 if patch_size == 32 else 4
    if model.name == "mixer" and image_size > 224:  # K x K copies, K = 2
        size["tokens_mlp_dim"] *= 4
    kept = {key: value for key, value in model.items() if key not in ("variant", *size)}
    if kept.get("representation_size"):
        kept["representation_size"] = size["hidden_dim"]
    kept["head_bias_init"] = -2.2 if kept["head_bias_init"] else 0.0  # the logit of 1 in 10
    return ConfigDict({**kept, **size, "dtype": "float32", "remat": "none"})


def _shrink_data(config: ConfigDict, is_pretraining: bool) -> None:
    if is_pretraining:
        config.train_split = UPSTREAM[config.dataset]
        config.eval_splits = ConfigDict({"minival": "train[60%:70%]"})
    else:
        train, minival, test = IMAGENET if config.dataset == "imagenet2012" else OTHERS
        config.train_split = train
        config.eval_splits = ConfigDict({"minival": minival, "test": test})
    config.dataset = "digits"


def _shrink_schedule(config: ConfigDict, steps: int) -> None:
    if "num_epochs" in config:
        del config.num_epochs
    config.num_steps = steps
    if config.optimizer.name == "adam":
        config.optimizer.learning_rate = 3e-3  # the quick start's
    elif config.optimizer.learning_rate > 0.1:
        config.optimizer.learning_rate = 0.03  # BiT's rate grows with the batch
    config.optimizer.warmup_steps = steps // 10
    config.log_every = steps // 3
    config.eval_every = steps // 3 if steps == STEPS else steps
    config.checkpoint_every = steps

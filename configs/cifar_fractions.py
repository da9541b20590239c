"""Figure 2 (right) in small: a Mixer, ViT or BiT of 0.12M to 0.16M parameters on part of CIFAR-10.

Argument: FAMILY[,PERCENT] with FAMILY mixer, vit or bit and PERCENT of the training images, 3, 10,
          30 or 100 (default). Each takes 1,500 steps, as in the paper all take equally many.
Data:     CIFAR-10 as TFDS has it, or a folder of its images prepared under that name; 48,000
          images to train on, 2,000 to choose the step that is reported (early stopping)
Recipe:   the quick start's, with flips
Command:  python -m mixer.main --config=configs/cifar_fractions.py:mixer,3 --workdir=runs/mixer3
          all twelve: python scripts/reproduce.py run figure2right-cifar10 --workdir=runs/cifar10
Hardware: 2 CPU cores
Expected: accuracy grows with the part of the images, most for Mixer
Measured: test top-1 with 3, 10, 30, 100%, one seed (2026-11-26): mixer 43.64, 50.01, 48.35, 50.63;
          vit 45.56, 48.70, 48.58, 49.66; bit 49.56, 55.89, 57.44, 57.67. See docs/reproduction.md
"""

import pathlib

from ml_collections import ConfigDict

from mixer.errors import unknown_name
from mixer.runtime.command import load_config_file

FAMILIES = ("mixer", "vit", "bit")
PERCENTS = (3, 10, 30, 100)
STEPS = 1500


def get_config(what: str = "mixer") -> ConfigDict:
    """Returns the config of "FAMILY[,PERCENT]"; ValueError for others."""
    family, _, percent = what.partition(",")
    if family not in FAMILIES:
        raise unknown_name("family of cifar_fractions.py", family, FAMILIES)
    if percent not in ("", *map(str, PERCENTS)):
        raise unknown_name("percentage", percent, [str(p) for p in PERCENTS])
    digits = load_config_file(str(pathlib.Path(__file__).with_name("digits.py")))
    config: ConfigDict = digits.get_config(family)
    config.dataset = "cifar10"
    config.train_split = "train[:96%]"
    config.train_fraction = int(percent or 100) / 100
    config.eval_splits = ConfigDict({"minival": "train[96%:]", "test": "test"})
    config.image_size = config.eval_resize = 32
    config.flip = True
    config.eval_every = config.checkpoint_every = STEPS // 10
    del config.num_epochs
    config.num_steps = STEPS
    if family == "vit":
        config.model.mlp_dim = 160  # its attention has more parameters than token mixing
    return config

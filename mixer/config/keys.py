"""Every key of a config. `docs/write_tables.py` writes this table to docs/configs.md."""

import functools

from mixer.config.key import Key
from mixer.config.model_keys import MODEL

_free = functools.partial(Key, is_free=True)
_optional = functools.partial(Key, is_optional=True)
_CODE = "authors' public code"

DATA = {
    "dataset": Key(
        str,
        "; a name of [data.md](data.md#named-datasets), `NAME:VERSION` or `folder:PATH`",
        "the dataset to train and evaluate on",
    ),
    "data_dir": _free(
        str, "; a folder, or `gs://`", "where TFDS keeps its datasets; empty = TFDS's default"
    ),
    "train_split": Key(str, "; a TFDS split, `train[:99%]`", "the images to train on", _CODE),
    "eval_splits.NAME": Key(
        str, "; a TFDS split", "evaluates that split as `NAME`; add as many as you like"
    ),
    "few_shot.dataset": _free(
        str,
        "; empty, or as `dataset`",
        "with every evaluation, a linear probe of the features on this dataset; empty = none",
        "section 3.1, Figures 2 and 4",
    ),
    "few_shot.train_split": _free(str, "; a TFDS split", "the images that it is fitted to"),
    "few_shot.test_split": _free(str, "; a TFDS split", "the images of its score, `few_shot/top1`"),
    "few_shot.shots": _free(int, "1 <= x <= 1000000", "training images of each class", "5"),
    "label_key": Key(
        str,
        "; a feature of the dataset",
        "the label, in a dataset that others made in TFDS's format; empty = `label`",
    ),
    "train_fraction": Key(
        float, "0 < x <= 1", "a fixed random part of `train_split`; 1 = all", "Figure 2, right"
    ),
    "replace_damaged": Key(
        bool,
        "",
        "replace damaged examples by the next sound one, instead of stopping; with `input=host`",
    ),
    "input": Key(
        str,
        "host, device",
        "where training images are cropped and flipped: `host` reads, decodes and augments them "
        "as they are needed; `device` keeps them decoded on every device, without RandAugment",
        "ours",
    ),
    "cache": _free(str, "none, raw", "`raw` holds the encoded training images in memory"),
    "cache_eval": _free(bool, "", "holds the decoded evaluation images in memory"),
    "num_stripes": Key(
        int,
        "x >= 1; divides `batch_size`",
        "stripes of the training set; a multiple of the number of hosts lets each read only its "
        "part; 1 = one permutation of all examples per epoch",
    ),
    "prefetch": _free(int, "-1, 1 <= x <= 1000", "batches prepared ahead; -1 = tf.data chooses"),
    "image_size": Key(
        int,
        "1 <= x <= 8192; a multiple of the patch size",
        "side of the images in pixels",
        "section 3: 224",
    ),
    "train_crop.name": Key(
        str,
        "inception_crop, random_crop, squeezed_crop, padded_crop",
        "how a training image is brought to `image_size`",
        "section 3",
    ),
    "train_crop.area": _optional(
        tuple,
        "0 < x <= 1",
        "for `inception_crop`: fraction of the image's area that the crop covers",
        _CODE,
    ),
    "train_crop.resize": _optional(
        int,
        "1 <= x <= 8192; at least `image_size`",
        "before the crop: for `random_crop` the shorter side, for `squeezed_crop` both sides",
        "ours",
    ),
    "train_crop.padding": _optional(
        int, "1 <= x <= 8192", "for `padded_crop`: black pixels added on each side", "ResNet paper"
    ),
    "flip": Key(bool, "", "random horizontal flip", "section 3"),
    "randaugment.layers": Key(int, "0 <= x <= 100", "operations per image; 0 = off", "Table 4: 2"),
    "randaugment.magnitude": Key(
        float,
        "0 <= x <= 100",
        "strength of the operations. 0 is not off: some operations still change the image",
        "Table 4",
    ),
    "eval_crop": Key(
        str,
        "resmall_crop, resize_crop",
        "how an evaluation image is brought to `eval_resize`",
        "Appendix C",
    ),
    "eval_resize": Key(
        int,
        "1 <= x <= 8192; at least `image_size`",
        "the size before the central crop; `image_size` = the whole image",
        "Appendix C: 256",
    ),
}

TRAINING = {
    "seed": Key(
        int,
        "0 <= x <= 4294967295",
        "the seed of everything: initialisation, order, augmentation, mixup, masks",
    ),
    "batch_size": Key(
        int,
        "1 <= x <= 1048576; a multiple of devices x `accumulation_steps`",
        "global batch",
        "section 3: 4096; fine-tuning 512",
    ),
    "num_epochs": _optional(float, "x > 0", "length of the run, over `train_split`", "Table 4"),
    "num_steps": _optional(
        int,
        "x >= 1",
        "length in steps; a config has this or `num_epochs`, and the one that is given on the "
        "command line replaces the other",
        "ViT paper",
    ),
    "mixup_alpha": Key(
        float,
        "0 <= x <= 1000",
        "of Beta(alpha, alpha), one weight per step; 0 = no mixup",
        "Table 4: mixup p",
    ),
    "loss": Key(
        str, "sigmoid, softmax", "cross-entropy per class, summed, or of the softmax", _CODE
    ),
    "init_from": _free(
        str,
        "; anything in [weights.md](weights.md)",
        "weights to start from, without their head; empty = from scratch",
    ),
    "polyak_decay": Key(
        float,
        "0 <= x < 1",
        "average of the parameters, which is then evaluated and exported; 0 = off",
        "Appendix A.2: did not help",
    ),
    "optimizer.name": Key(str, "adam, momentum", "the optimizer", "section 3"),
    "optimizer.learning_rate": Key(
        float, "x > 0", "the peak", "Table 4; fine-tuning: section 3's grid"
    ),
    "optimizer.warmup_steps": Key(
        int,
        "x >= 0; below the steps of the run",
        "linear from 0 to the peak; 0 = none",
        "section 3: 10,000",
    ),
    "optimizer.decay": Key(
        str,
        "linear, cosine, staircase",
        "after the warm-up; `staircase`: the rate is divided by 10 at `decay_at`",
        "section 3",
    ),
    "optimizer.end_learning_rate": _optional(
        float,
        "x >= 0",
        "for `linear` and `cosine`: at the last step, absolute, not a fraction",
        _CODE,
    ),
    "optimizer.decay_at": _optional(
        tuple,
        "0 < x < 1; ascending",
        "for `staircase`: fractions of the run, one or more",
        "BiT paper",
        items=float,
    ),
    "optimizer.clip_global_norm": Key(
        float, "x >= 0", "largest global norm of the gradient; 0 = no clipping", "section 3: 1"
    ),
    "optimizer.beta1": _optional(float, "0 <= x < 1", "for `adam`", "section 3"),
    "optimizer.beta2": _optional(float, "0 <= x < 1", "for `adam`", "section 3"),
    "optimizer.weight_decay": Key(
        float,
        "x >= 0",
        "kernels only; for `adam`: AdamW's, times the learning rate; for `momentum`: added to the "
        "gradient; 0 = off",
        "Table 4",
    ),
    "optimizer.mu_dtype": _optional(
        str, "float32, bfloat16", "for `adam`: how the first moment is kept", "ours"
    ),
    "optimizer.momentum": _optional(float, "0 <= x < 1", "for `momentum`; 0 = plain SGD", _CODE),
    "optimizer.momentum_dtype": _optional(
        str, "float32, bfloat16", "for `momentum`: how the momentum is kept", "ours"
    ),
}

OPERATION = {
    "mesh.data": _free(
        int,
        "-1, x >= 1",
        "devices of a slice along `data`: the batch is divided; -1 = all the rest",
    ),
    "mesh.fsdp": _free(
        int,
        "-1, x >= 1",
        "devices of a slice along `fsdp`: batch, parameters and optimizer state are divided; -1 = "
        "all the rest, 1 = state replicated",
    ),
    "steps_per_call": _free(
        int,
        "1 <= x <= 1000",
        "steps in one program, for models whose step takes milliseconds; a stop waits for them",
    ),
    "accumulation_steps": _free(
        int, "x >= 1", "computes the batch in that many parts; 1 = at once"
    ),
    "log_every": _free(int, "x >= 1", "steps between lines of `metrics.jsonl`"),
    "eval_every": _free(
        int, "x >= 1", "steps between evaluations; the last step is always evaluated"
    ),
    "checkpoint_every": _free(
        int, "x >= 1", "steps between checkpoints; the last step is always saved"
    ),
    "keep_checkpoints": _free(int, "x >= 1", "newest checkpoints to keep"),
    "keep_every": _free(
        int,
        "x >= 0; a multiple of `checkpoint_every`",
        "also keeps checkpoints at its multiples; 0 = none",
    ),
    "best_by": _free(
        str,
        "; empty, or `NAME/top1` of `eval_splits`",
        "also keeps the checkpoint with the highest score; empty = none",
    ),
    "watchdog_seconds": _free(
        int, "x >= 0", "ends a run that finishes no step for that long; 0 = never"
    ),
}

KEYS = {**DATA, **TRAINING, **MODEL, **OPERATION}


def find_key(path: str) -> Key | None:
    """Returns the row of a key such as `optimizer.name`, None if there is no such key."""
    section, _, name = path.partition(".")
    if section == "eval_splits" and name.replace("_", "").isalnum():
        path = "eval_splits.NAME"
    return KEYS.get(path)

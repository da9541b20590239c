"""A recipe of ours in PyTorch: timm's MlpMixer, its learning rate and its training step."""

import functools
import math
from typing import Any

from ml_collections import ConfigDict

from tests.peers.timm_peer import import_timm

torch, _models = import_timm()


def check_recipe(config: ConfigDict) -> None:
    """Raises ValueError for a recipe that this peer does not have."""
    for key, supported in {
        "model.name": ("mixer",),
        "optimizer.name": ("adam",),
        "optimizer.decay": ("linear", "cosine"),
        "optimizer.mu_dtype": ("float32",),
        "init_from": ("",),
        "train_crop.name": ("padded_crop",),
        "randaugment.layers": (0,),
    }.items():
        value = functools.reduce(lambda section, name: section[name], key.split("."), config)
        if value not in supported:
            names = " or ".join(map(repr, supported))
            raise ValueError(
                f"Expected {key} to be {names} for timm's training; got {value!r}. Change it for "
                "both, or train with ours alone."
            )


def learning_rate(optimizer: ConfigDict, step: int, total_steps: int) -> float:
    """Returns the learning rate of the update after `step` updates: warm-up, then decay."""
    peak, end, warmup = (
        optimizer[key] for key in ("learning_rate", "end_learning_rate", "warmup_steps")
    )
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / (total_steps - warmup)
    left = 1 - done if optimizer.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return end + (peak - end) * left


def create_network(model: ConfigDict, num_classes: int, image_size: int) -> Any:
    """Returns timm's MlpMixer with the sizes, drop rates and initialisation of ours.

    timm's own stochastic depth has one rate for all blocks and rescales what it keeps.
    """
    nn, width = torch.nn, model.hidden_dim
    network = _models.mlp_mixer.MlpMixer(
        num_classes=num_classes,
        img_size=image_size,
        patch_size=model.patch_size,
        num_blocks=model.num_blocks,
        embed_dim=width,
        # timm multiplies by the width and rounds down.
        mlp_ratio=((model.tokens_mlp_dim + 0.5) / width, (model.channels_mlp_dim + 0.5) / width),
        act_layer=functools.partial(
            nn.GELU, approximate="tanh" if model.gelu_approximate else "none"
        ),
        proj_drop_rate=model.dropout_rate,
        drop_path_rate=model.stochastic_depth_rate,
    )
    for number, block in enumerate(network.blocks if model.stochastic_depth_rate else []):
        block.drop_path.drop_prob = (
            model.stochastic_depth_rate * number / max(model.num_blocks - 1, 1)
        )
        block.drop_path.scale_by_keep = False
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _models.mlp_mixer.lecun_normal_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(network.head.weight)
    nn.init.constant_(network.head.bias, model.head_bias_init)
    return network


class Training:
    """The state of a run and its step.

    `network` is trained, `eval_network` is evaluated: its average if the recipe has one. Images are
    uint8 `[B, H, W, 3]`, labels int64 `[B]`, on `device`, on which the computation is done. With
    `compiled`, by torch.compile. A batch is computed in the config's `accumulation_steps` parts. On
    a GPU, float32 products may use TF32, as in JAX by default.
    """

    def __init__(self, config: ConfigDict, num_classes: int, total_steps: int, *, compiled: bool):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda":
            torch.set_float32_matmul_precision("high")
        self._config = config
        self._num_classes = num_classes
        self._total_steps = total_steps
        self._steps = 0
        self.network = create_network(config.model, num_classes, config.image_size).to(self.device)
        self.eval_network = self.network
        if config.polyak_decay:
            average = torch.optim.swa_utils.get_ema_multi_avg_fn(config.polyak_decay)
            self.eval_network = torch.optim.swa_utils.AveragedModel(
                self.network, multi_avg_fn=average
            )
            self.eval_network.update_parameters(self.network)  # the first call copies
        self._forward = torch.compile(self.network) if compiled else self.network
        self._optimizer = _adamw(self.network, config.optimizer)

    def draw_weight(self) -> float:
        """Returns the mixup weight of a step."""
        alpha = self._config.mixup_alpha
        weight = float(torch.distributions.Beta(alpha, alpha).sample()) if alpha else 1.0
        return max(weight, 1.0 - weight)

    def step(self, images: Any, labels: Any, weight: float) -> Any:
        """Takes a step, with that mixup weight; returns the loss, a scalar."""
        config = self._config.optimizer
        x, targets = _normalized(images), self._one_hot(labels)
        if weight < 1.0:  # mixed with the example before
            x, targets = (torch.lerp(part.roll(1, 0), part, weight) for part in (x, targets))
        self.network.train()
        self._optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        parts = (part.chunk(self._config.accumulation_steps) for part in (x, targets))
        for part, its_targets in zip(*parts, strict=True):
            with self._autocast():
                logits = self._forward(part)
            part_loss = self._loss(logits.float(), its_targets) / len(images)
            part_loss.backward()
            loss += part_loss.detach()
        if config.clip_global_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_global_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, self._steps, self._total_steps)
        self._optimizer.step()
        if self.eval_network is not self.network:
            self.eval_network.update_parameters(self.network)
        self._steps += 1
        return loss

    def evaluate(self, images: Any, labels: Any) -> dict[str, float]:
        """Returns `top1`, the mean `loss` and the `count` of all images of a split."""
        correct, loss = 0, 0.0
        self.eval_network.eval()
        with torch.inference_mode(), self._autocast():
            batches = (part.split(self._config.batch_size) for part in (images, labels))
            for x, y in zip(*batches, strict=True):
                x, y = x.to(self.device), y.to(self.device)
                logits = self.eval_network(_normalized(x)).float()
                correct += int((logits.argmax(1) == y).sum())
                loss += float(self._loss(logits, self._one_hot(y)))
        return {"top1": correct / len(labels), "loss": loss / len(labels), "count": len(labels)}

    def _loss(self, logits: Any, targets: Any) -> Any:
        """Returns the sum over the examples."""
        functional = torch.nn.functional
        if self._config.loss == "softmax":
            return functional.cross_entropy(logits, targets, reduction="sum")
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")

    def _one_hot(self, labels: Any) -> Any:
        return torch.nn.functional.one_hot(labels, self._num_classes).float()

    def _autocast(self) -> Any:
        enabled = self._config.model.dtype == "bfloat16"
        return torch.autocast(self.device, torch.bfloat16, enabled=enabled)


def _normalized(images: Any) -> Any:
    return (images.float() / 127.5 - 1.0).permute(0, 3, 1, 2)


def _adamw(network: Any, config: ConfigDict) -> Any:
    """Returns Adam with weight decay of the kernels alone; its rate is set in every step."""
    kernels = [x for x in network.parameters() if x.ndim > 1]
    others = [x for x in network.parameters() if x.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=1e-8, fused=True)

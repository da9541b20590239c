"""What a run says at its end."""

from collections.abc import Mapping

from etils import epath


def summary(
    latest: Mapping[str, float],
    workdir: epath.Path,
    total_steps: int,
    train_seconds: float,
    wall_seconds: float,
) -> str:
    """Returns the lines: times, accuracy of each split, files. `latest`: the last metrics."""
    splits = [key.removesuffix("/top1") for key in latest if key.endswith("/top1")]
    accuracies = "".join(
        f"\n  {split + ' top-1':12} {latest[split + '/top1']:.2%} of "
        f"{latest[split + '/count']:,} images"
        for split in splits
    )
    return f"""
Finished {total_steps:,} steps in {train_seconds:.1f} s of training, \
{wall_seconds:.1f} s in all.{accuracies}
  config       {workdir / "config.json"}
  metrics      {workdir / "metrics.jsonl"}, and for TensorBoard: tensorboard --logdir {workdir}
  pictures     {workdir / "curves.png"}, {workdir / "train_images.png"}
  checkpoint   {workdir / "checkpoints" / str(total_steps)}"""

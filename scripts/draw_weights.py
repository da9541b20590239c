"""Draws what a Mixer has learnt: Figures 5, 6 and 7 of the paper, from any Mixer weights.

python scripts/draw_weights.py --weights=imagenet21k/Mixer-B_16 --output=figures

Writes token_units (some units of the first three token-mixing MLPs, Figure 5), all_token_units (all
of the first two, Figure 6) and stem (Figure 7), each as .png and .pdf. Units are in pairs: next to
each is the one that is closest to its negative. Low frequencies come first.
"""

import pathlib

from absl import flags

from mixer.runtime import command

_WEIGHTS = command.path_flag(
    "weights", None, "Published name, .npz or .safetensors file, or run.", required=True
)
_OUTPUT = command.path_flag("output", "figures", "Folder for the pictures.")
_UNITS = flags.DEFINE_integer("units", 64, "Units of each MLP in token_units.", 1)


def main() -> None:
    from mixer.paper import weight_pictures  # after flag parsing, since JAX takes seconds
    from mixer.weights.load import load_weights

    weights = load_weights(_WEIGHTS.value)
    if weights.family != "mixer":
        raise ValueError(
            "Expected weights of a Mixer, which has token-mixing MLPs; got those of the model "
            f"{weights.family}: {weights.description}."
        )
    params = weights.params
    blocks = sum(name.startswith("MixerBlock_") for name in params)
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in (
        ("token_units", weight_pictures.draw_token_units(params, min(3, blocks), _UNITS.value)),
        ("all_token_units", weight_pictures.draw_token_units(params, min(2, blocks), None)),
        ("stem", weight_pictures.draw_stem(params)),
    ):
        for suffix in ("png", "pdf"):
            figure.savefig(folder / f"{name}.{suffix}", dpi=150)
    print(
        f"Drew {weights.description} to {folder}/{{token_units,all_token_units,stem}}.{{png,pdf}}"
    )


if __name__ == "__main__":
    command.run(main)

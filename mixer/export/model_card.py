"""The model card of a hub folder: what it is, where the weights come from, what differs in timm."""

import pathlib

import mixer
from mixer.weights.catalogue import CATALOGUE
from mixer.weights.weights import Weights

_CARD = """\
---
license: {licence}
library_name: timm
pipeline_tag: {task}
tags:
- {task}
- timm
- {family}
---
# {architecture}, {image_size} x {image_size} pixels

```python
import timm
model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or hf-hub:OWNER/NAME

import mixer  # in JAX: the repository that wrote this folder
loaded = mixer.load("FOLDER")
```

## Where the weights come from

{provenance}

Written by mixer {version} as float32, from: {description}.

## What differs

{differences}

## Licence

{licence_text}
"""


def model_card(
    architecture: str,
    weights: Weights,
    image_size: int,
    source: str,
    licence: str,
    difference: str,
) -> str:
    """Returns the text of README.md; `difference` says what timm computes otherwise, or ""."""
    recipe, num_classes = weights.recipe, weights.found.fields["num_classes"]
    differences = [difference] if difference else []
    differences.append(
        f"Images: here the side before the crop is {recipe.resize_for(image_size)} pixels, resized "
        f"by area averaging ({recipe.crop}); timm resizes with its bicubic filter. Accuracies "
        "may differ slightly for that."
    )
    if image_size != weights.image_size:
        differences.append(
            f"Resolution: the weights are for {weights.image_size} pixels and were resized to "
            f"{image_size}, without training."
        )
    return _CARD.format(
        licence=licence,
        task="image-classification" if num_classes else "image-feature-extraction",
        family={"mixer": "mlp-mixer"}.get(weights.family, weights.family),
        architecture=architecture,
        image_size=image_size,
        provenance="\n".join(f"* {line}" for line in _provenance(weights, source)),
        version=mixer.__version__,
        description=weights.description,
        differences="\n".join(f"* {line}" for line in differences),
        licence_text=(
            "Not recorded. Find out under which licence the weights may be passed on, and set "
            "`license` above, before you publish this folder."
            if licence == "unknown"
            else f"{licence}, as stated by who wrote this folder."
        ),
    )


def _provenance(weights: Weights, source: str) -> list[str]:
    path = pathlib.PurePath(source)
    lines = [f"Source: `{path.name if path.is_absolute() else source}`"]
    if source in CATALOGUE:
        published = CATALOGUE[source]
        lines.append(f"Published at {published.url}")
        lines.append(f"Trained by its authors on {published.data[0]}")
        if published.top1:
            percent, who = published.top1
            lines.append(f"Top-1 on ImageNet, measured by {who} with the original: {percent}%")
    elif weights.recipe.dataset:
        name = weights.recipe.dataset.partition(":")[0]  # no path of the machine
        lines.append(
            f"Trained or fine-tuned on: {name}, {weights.found.fields['num_classes']:,} classes"
        )
    else:
        lines.append("What they were trained on is not recorded")
    return lines

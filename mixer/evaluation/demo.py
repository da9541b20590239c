"""A page to try a model in the browser: classes and tiles of an image, maps of token mixing."""

import html
import importlib.resources
import io
import os
import pathlib
import signal
import socket
import tempfile
from typing import Any

import flax.linen as nn
import numpy as np
from PIL import Image

from mixer.evaluation.head import check_head
from mixer.evaluation.prediction import Prediction, Predictor
from mixer.evaluation.prediction_table import printable
from mixer.models.mixer import MlpMixer
from mixer.paper.weight_pictures import draw_token_units, mosaic
from mixer.runtime.command import explained
from mixer.runtime.packages import check_installed

REQUIREMENTS = ["gradio>=6,<7"]
_SIDE = 480  # pixels that a picture of tiles has at least, about
_STYLE = "#classes :is(tr, td) { border: 0 } #classes meter { width: 8em }"


def serve(predictor: Predictor, title: str, host: str, port: int) -> None:
    """Serves the page until the process is interrupted, and prints its address.

    Until then, uploads lie in a temporary folder. (Gradio's `delete_cache` would take the samples.)

    Args:
      predictor: what classifies.
      title: of the page: where the weights come from.
      host: the address to listen on; 127.0.0.1 can be reached from this machine alone.
      port: 0 for any that is free.

    Raises:
      ValueError: a package is missing, or the model has no trained head.
      OSError: the port is not free, or the address is none of this machine.
    """
    check_head(predictor.loaded)
    check_installed(REQUIREMENTS, "for a page in the browser")
    with (
        listen(host, port) as listener,
        tempfile.TemporaryDirectory(prefix="mixer-demo-") as folder,
    ):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes
        # Read when Gradio is imported and when a page is made.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        import fastapi
        import gradio
        import uvicorn

        from mixer.data.image_check import MAX_BYTES  # imports TensorFlow

        page = _page(predictor, title, write_samples(pathlib.Path(folder)))
        # Not `launch`, which asks its own server over HTTP, through a proxy if there is one.
        app = gradio.mount_gradio_app(
            *(fastapi.FastAPI(openapi_url=None), page, "/"),
            **dict(max_file_size=MAX_BYTES, css=_STYLE),
            **dict(footer_links=[], run_history=False, ssr_mode=False, mcp_server=False),
        )
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        print(f"{title}: {url} (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens there; OSError if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(
            f"Expected an address of this machine and a free port; got --host={host} "
            f"--port={port}: {error.strerror}. --port=0 takes any free one."
        ) from error


def _page(predictor: Predictor, title: str, samples: list[pathlib.Path]) -> Any:
    import gradio

    from mixer.data.image_check import MAX_BYTES
    from mixer.data.rare_formats import MAX_PIXELS

    limits = f"at most {MAX_BYTES >> 20} MiB and {MAX_PIXELS // 10**6} million pixels"
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.HTML(f"<h2>{_escaped(title)}</h2>")
        with gradio.Row():
            with gradio.Column():
                file = gradio.File(label=f"Image of {limits}")
                paths = [[str(path)] for path in samples]
                gradio.Examples(paths, file, label="Samples", cache_examples=False)
                classes = gradio.HTML(elem_id="classes")
            picture = dict(format="png", show_label=False, buttons=["fullscreen"])
            with gradio.Column():
                gradio.HTML(f"<p>{tiles_title(predictor)}</p>")
                shown = gradio.Image(interactive=False, elem_id="tiles", **picture)
        if (maps := token_mixing_maps(predictor)) is not None:
            gradio.HTML("<p>Token mixing: hidden units, one weight per tile, red if positive</p>")
            gradio.Image(maps, interactive=False, elem_id="maps", **picture)
        else:
            name = type(predictor.model).__name__
            gradio.HTML(f"<p>Only a Mixer has maps of token mixing; this is a {name}.</p>")
        file.change(
            lambda path: look(predictor, path) if path else ("", None),
            *(file, [classes, shown]),
            api_visibility="private",
        )
    return page


def look(predictor: Predictor, path: str) -> tuple[str, np.ndarray | None]:
    """Returns the classes of an image file as HTML, and its picture of tiles, uint8 `[H, W, 3]`.

    Of a file that is no image, the first is the message and the second None.
    """
    file = pathlib.Path(path)
    try:
        (found,) = predictor.predict([file])
    except Exception as error:
        if (message := explained(error)) is None:
            raise
        return f'<p role="alert">{_escaped(message.replace(str(file), file.name))}</p>', None
    assert found.image is not None  # it is the first
    return classes_table(found), tiles(found.image, patch_size_of(predictor.model))


def classes_table(prediction: Prediction) -> str:
    """Returns the most probable classes as an HTML table, with a bar each."""
    rows = [
        f'<tr><td>{_escaped(name)}</td><td><meter value="{probability}"></meter></td>'
        f"<td>{probability:.2%}</td></tr>"
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)
    ]
    return f"<table>{''.join(rows)}</table>"


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def patch_size_of(model: nn.Module) -> int | None:
    """Returns the side of a model's tiles in pixels; None if they are no part of the image.

    A ResNet has none, and a model of permuted images cuts other images than the given one.
    """
    size: int | None = getattr(model, "patch_size", None)
    return None if hasattr(model, "permutation") else size


def tiles(image: np.ndarray, patch_size: int | None) -> np.ndarray:
    """Returns an image, uint8 `[H, W, 3]`, cut into tiles with white between; None: in one piece.

    Every pixel is enlarged to a square, so that small images are seen as they are.
    """
    size, (height, width, _) = patch_size or len(image), image.shape
    cut = image.reshape(height // size, size, width // size, size, 3).swapaxes(1, 2)
    picture = mosaic(cut.reshape(-1, size, size, 3), columns=width // size)
    picture = np.where(np.isnan(picture), 255, picture).astype(np.uint8)
    scale = max(1, _SIDE // len(picture))
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def tiles_title(predictor: Predictor) -> str:
    """Returns what the picture of tiles shows, in words."""
    size, side = patch_size_of(predictor.model), predictor.image_size
    seen = f"What the model sees: {side} x {side} pixels"
    if size is None:
        return f"{seen}; a {type(predictor.model).__name__} has no tiles of the image"
    return f"{seen}, {(side // size) ** 2} tiles of {size} x {size}"


def token_mixing_maps(predictor: Predictor) -> Image.Image | None:
    """Returns a picture of 64 units in each of the first three token-mixing MLPs, as in Figure 5.

    None for other models than Mixer.
    """
    if type(predictor.model) is not MlpMixer:
        return None
    png = io.BytesIO()
    blocks = min(3, predictor.model.num_blocks)
    draw_token_units(predictor.params, blocks, 64).savefig(png, format="png", dpi=150)
    return Image.open(png)


def write_samples(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes two photos and a digit, which come with scikit-learn, and returns their paths."""
    from sklearn.datasets import load_digits  # slow to import

    photos = importlib.resources.files("sklearn.datasets.images")
    paths = [folder / name for name in ("china.jpg", "flower.jpg", "digit.png")]
    for path in paths[:2]:
        path.write_bytes((photos / path.name).read_bytes())
    digit = load_digits().images[3] * (255 / 16)  # grey levels are 0 to 16; 3 is a test image
    Image.fromarray(digit.round().astype(np.uint8)).save(paths[2])
    return paths

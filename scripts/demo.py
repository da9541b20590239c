"""Opens a page to try a model in the browser: drop an image, see its classes and its tiles.

python scripts/demo.py --weights=SOURCE

Example: python scripts/demo.py --weights=imagenet1k/Mixer-B_16

SOURCE is a published name, a .npz or .safetensors file, a run, or a folder of the Hugging Face hub.
Of a Mixer, the page also shows token-mixing weights as maps. It is for this machine alone, unless
--host says otherwise, and needs no network. Requires Gradio: pip install '.[demo]'.
"""

import sys

from absl import flags

from mixer.runtime import command, startup

# Before TensorFlow is imported.
startup.quiet_libraries()

_WEIGHTS = command.path_flag("weights", None, "Weights to use; see above.", required=True)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on. With 0.0.0.0 the whole network can use the page."
)
_PORT = flags.DEFINE_integer("port", 7860, "Port to listen on; 0: any free one.", 0, 65535)
_CLASS_NAMES = command.path_flag(
    "class_names", None, "File with one class name per line. Default: as in the run, or ImageNet's."
)
_GELU = flags.DEFINE_enum(
    "gelu", None, ["tanh", "exact"], "Type of GELU. Default: that of the weights, or the usual one."
)


def main() -> None:
    # After flag parsing, since JAX takes seconds.
    from mixer.evaluation.class_names import find_class_names
    from mixer.evaluation.demo import serve
    from mixer.evaluation.prediction import Predictor
    from mixer.weights.load import load_model

    loaded = load_model(_WEIGHTS.value, gelu=_GELU.value)
    if loaded.assumed:
        print(loaded.assumed, file=sys.stderr, flush=True)
    names = find_class_names(loaded, _CLASS_NAMES.value)
    serve(Predictor(loaded, class_names=names), _WEIGHTS.value, _HOST.value, _PORT.value)


if __name__ == "__main__":
    command.run(main)

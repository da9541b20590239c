"""Weight files and what becomes of them; the names that others rely on."""

from mixer.weights.files import Params, load_params, read_params, save_params

__all__ = ["Params", "load_params", "read_params", "save_params"]

"""Loads, saves, downloads and resizes weights. The names below are the stable interface."""

from mixer.weights.files import Params, load_params, save_params

__all__ = ["Params", "load_params", "save_params"]

"""Golden weights by name, and files made of them."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """The golden weights in the released naming."""
    return dict(np.load(GOLDEN / "mixer_tiny.npz"))


@pytest.fixture
def older_arrays() -> dict[str, np.ndarray]:
    """The same weights in the older naming, as they are in the file."""
    return dict(np.load(GOLDEN / "mixer_tiny_legacy.npz"))


@pytest.fixture
def write_npz(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes arrays to a file and returns its path."""

    def write(arrays: dict[str, np.ndarray]) -> pathlib.Path:
        np.savez(tmp_path / "weights.npz", **arrays)
        return tmp_path / "weights.npz"

    return write


@pytest.fixture
def assert_same_bits() -> Callable[..., None]:
    """Compares two mappings of arrays: names, shapes, types and bytes."""

    def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert found[name].shape == array.shape, name
            assert found[name].dtype == array.dtype, name
            assert found[name].tobytes() == array.tobytes(), name

    return check

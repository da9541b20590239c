"""A ViT for images of another size: the published code's numbers, and SciPy's for any grid."""

import numpy as np
import pytest
import scipy.ndimage

from mixer.weights.position_embeddings import resize_position_embeddings
from tests.weights.family_files import GOLDEN


def positions_in_tree(params):
    return params["Transformer"]["posembed_input"]["pos_embedding"]


def vit_tree(positions, is_token):
    params = {"Transformer": {"posembed_input": {"pos_embedding": positions}, "encoder_norm": {}}}
    return params | ({"cls": np.zeros((1, 1, positions.shape[2]))} if is_token else {})


def test_resized_positions_are_those_of_the_published_code():
    golden = np.load(GOLDEN / "vit_tiny_resize_4to8.npz")
    params = vit_tree(golden["pos_embedding"], is_token=True)
    resized = positions_in_tree(resize_position_embeddings(params, (4, 4), (8, 8)))
    np.testing.assert_allclose(resized, golden["pos_embedding_resized"], rtol=0, atol=1e-6)
    assert resized.dtype == np.float32
    # The corners are aligned: what they have is kept, as is the class token's.
    kept, old = resized[0, [0, 1, 8, 57, 64]], golden["pos_embedding"][0, [0, 1, 4, 13, 16]]
    np.testing.assert_array_equal(kept, old)
    np.testing.assert_array_equal(positions_in_tree(params), golden["pos_embedding"])


@pytest.mark.parametrize("is_token", [True, False])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(
            ((4, 4), (6, 6)),
            ((3, 5), (7, 4)),
            ((6, 2), (3, 2)),
            ((1, 4), (5, 4)),
            ((7, 7), (24, 24)),
        ),
        *(((4, 6), (1, 6)), ((2, 3), (2, 3)), ((14, 14), (7, 9))),
    ],
)
def test_any_grid_is_interpolated_bilinearly_with_aligned_corners(old, new, is_token):
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(1, old[0] * old[1] + is_token, 5)).astype(np.float32)
    params = resize_position_embeddings(vit_tree(positions, is_token), old, new)
    resized = positions_in_tree(params)
    grid = positions[0, int(is_token) :].reshape(*old, 5)
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    expected = scipy.ndimage.zoom(grid, zoom, order=1).reshape(1, -1, 5)
    np.testing.assert_allclose(resized[:, int(is_token) :], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(resized[:, : int(is_token)], positions[:, : int(is_token)])
    assert params["Transformer"]["encoder_norm"] == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ((4, 5), (8, 8), "Expected weights for 4 x 5 patches; these are for 16. Check old_grid"),
        ((4, 4), (0, 8), "at least 1 x 1 patches; got 4 x 4 and 0 x 8"),
    ],
)
def test_grids_that_do_not_fit_are_refused(old, new, message):
    params = vit_tree(np.zeros((1, 17, 3), np.float32), is_token=True)
    with pytest.raises(ValueError, match=message):
        resize_position_embeddings(params, old, new)

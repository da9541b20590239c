"""The paper's numbers, read at a few points from the paper itself."""

import pytest

from mixer.models.mixer import VARIANTS
from mixer.paper import reference


def test_table_1_has_the_sizes_of_the_model():
    assert set(reference.TABLE1) == set(VARIANTS)
    for name, row in reference.TABLE1.items():
        sizes = {field: getattr(row, field) for field in VARIANTS[name]}
        assert sizes == VARIANTS[name]
        assert row.sequence_length == (224 // row.patch_size) ** 2
        assert round(row.params_exact_without_head / 1e6) == row.params_millions
        head = row.params_exact_with_1000_way_head - row.params_exact_without_head
        assert head == 1000 * (row.hidden_dim + 1)


def test_table_3_is_in_core_days():
    row = reference.table3("jft300m", "Mixer-H/14", 224, 14)
    assert (row.imagenet_top1, row.real_top1, row.avg5_top1) == (86.32, 89.14, 95.49)
    assert (row.img_per_sec_per_core, row.tpu_v3_core_days, row.note) == (194, 1010, "")
    assert reference.table3("imagenet", "Mixer-B/16", 224, 300).tpu_v3_core_days == 10
    seven, fourteen = (reference.table3("jft300m", "Mixer-L/16", 224, n) for n in (7, 14))
    assert (seven.imagenet_top1, fourteen.imagenet_top1) == (84.05, 84.82)
    assert (seven.tpu_v3_core_days, fourteen.tpu_v3_core_days) == (230, 450)


def test_the_rows_of_table_3_are_all_different():
    rows = reference.table3_rows()
    assert len(rows) == 26
    assert len([row for row in rows if row.model.startswith("Mixer")]) == 14
    for row in rows:
        assert reference.table3(row.pretrain, row.model, row.image_size, row.pretrain_epochs) is row


def test_table_4():
    row = reference.table4("Mixer-L", "imagenet21k")
    assert (row.randaugment_magnitude, row.mixup_p, row.stochastic_depth) == (20, 0.5, 0.1)
    assert reference.table4("Mixer-L", "jft300m").epochs == (7, 14)
    assert reference.table4("Mixer-S", "jft300m").mixup_p is None
    assert reference.SWEEPS["mixup_p"] == (0.0, 0.2, 0.5, 0.8)
    assert reference.PRETRAINING.batch_size == 4096


@pytest.mark.parametrize(
    ("lookup", "message"),
    [
        (
            lambda: reference.table3("jft300m", "Mixer-L/16", 224, 13),
            r"'Mixer-L/16 on jft300m \(13 epochs\) at 224'.*"
            r"Did you mean 'Mixer-L/16 on jft300m \(14 epochs\) at 224'",
        ),
        (
            lambda: reference.table4("Mixer-B", "imagenet22k"),
            "'Mixer-B on imagenet22k'.*Did you mean 'Mixer-B on imagenet21k'",
        ),
    ],
)
def test_a_row_that_is_not_there_is_refused_with_the_nearest(lookup, message):
    with pytest.raises(ValueError, match=message):
        lookup()

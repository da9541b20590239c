"""Times of programs that are computed by hand, and of one that this machine's compiler wrote."""

import jax
import jax.numpy as jnp
import pytest

from mixer.flops import Chip
from mixer.rehearsal.hlo import array_bytes, moved_bytes, parse_program
from mixer.rehearsal.roofline import roofline

CHIP = Chip(flops_per_second=1e6, hbm_gib=1, hbm_bytes_per_second=1e3)

PROGRAM = """HloModule jit_step, entry_computation_layout={(f32[4,8]{1,0})->f32[4,2]{1,0}}

%fused (param_0.1: f32[4,8], param_1.1: f32[8,2]) -> f32[4,2] {
  %param_0.1 = f32[4,8]{1,0:T(4,128)} parameter(0)
  %param_1.1 = f32[8,2]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,2]{1,0} dot(%param_0.1, %param_1.1), lhs_contracting_dims={1}
}

%sliced (param_0.2: f32[100,8], param_1.2: s32[]) -> f32[2,8] {
  %param_0.2 = f32[100,8]{1,0} parameter(0)
  %bitcast.2 = f32[100,8]{1,0} bitcast(%param_0.2)
  %param_1.2 = s32[] parameter(1)
  ROOT %dynamic-slice.2 = f32[2,8]{1,0} dynamic-slice(%bitcast.2, %param_1.2, %param_1.2)
}

%body (param.3: (s32[], f32[4,8], f32[8,2])) -> (s32[], f32[4,8], f32[8,2]) {
  %param.3 = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  %gte.0 = s32[] get-tuple-element(%param.3), index=0
  %two = s32[] constant(2)
  %next = s32[]{:S(6)} add(%gte.0, %two)
  %gte.1 = f32[4,8]{1,0} get-tuple-element(%param.3), index=1
  %gte.2 = f32[8,2]{1,0} get-tuple-element(%param.3), index=2
  %product = f32[4,2]{1,0:S(1)} fusion(%gte.1, %gte.2), kind=kOutput, calls=%fused
  ROOT %tuple.3 = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) tuple(%next, %gte.1, %gte.2)
}

%condition (param.4: (s32[], f32[4,8], f32[8,2])) -> pred[] {
  %param.4 = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  %limit = s32[] constant(8)
  %gte.4 = s32[] get-tuple-element(%param.4), index=0
  ROOT %less = pred[] compare(%gte.4, %limit), direction=LT
}

ENTRY %main (x: f32[4,8], w: f32[8,2], table: f32[100,8]) -> f32[4,2] {
  %x = f32[4,8]{1,0} parameter(0)
  %w = f32[8,2]{1,0} parameter(1)
  %table = f32[100,8]{1,0} parameter(2)
  %zero = s32[] constant(0)
BODY
}
"""


def program(*lines: str) -> str:
    return PROGRAM.replace("BODY", "\n".join(f"  {line}" for line in lines))


@pytest.mark.parametrize(
    ("line", "flops", "traffic"),
    [
        # 4 x 2 sums of 8 products; 32 + 16 + 8 numbers
        ("fusion(%x, %w), kind=kOutput, calls=%fused", 128, 4 * (32 + 16 + 8)),
        # two rows of the hundred are read, and written
        ("fusion(%table, %zero), kind=kLoop, calls=%sliced", 0, 4 * (16 + 16) + 4),
        ("all-gather(%x), channel_id=1, dimensions={0}", 0, 0),
    ],
)
def test_an_instruction(line, flops, traffic):
    shape = "f32[2,8]{1,0}" if "%sliced" in line else "f32[4,2]{1,0}"
    found = roofline(program(f"ROOT %out = {shape} {line}"), CHIP)
    assert (found.flops, found.memory_bytes) == (flops, traffic)
    assert found.seconds == max(flops / 1e6, traffic / 1e3)


def test_arithmetic_bounds_where_memory_is_fast():
    chip = Chip(flops_per_second=1e3, hbm_gib=1, hbm_bytes_per_second=1e6)
    line = "ROOT %out = f32[4,2]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused"
    assert roofline(program(line), chip).seconds == 0.128


def test_a_loop_runs_as_often_as_its_condition_says():
    found = roofline(
        program(
            "%start = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) tuple(%zero, %x, %w)",
            "ROOT %loop = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) while(%start), "
            "condition=%condition, body=%body",
        ),
        CHIP,
    )
    assert found.flops == 4 * 128  # 0, 2, 4, 6
    # Each time the factors, the counter and its step are read; the results stay on the chip.
    assert found.memory_bytes == 4 * 4 * (32 + 16 + 2)


def test_copies_beside_the_rest_take_no_time_of_their_own():
    copy = "%copy = (f32[4,8]{1,0:S(1)}, f32[4,8]{1,0}, u32[]{:S(2)}) copy-start(%x)"
    product = "ROOT %out = f32[4,2]{1,0:S(1)} fusion(%x, %w), kind=kOutput, calls=%fused"
    slow = Chip(flops_per_second=100, hbm_gib=1, hbm_bytes_per_second=1e3)
    found = roofline(program(copy, product), slow)
    assert found.memory_bytes == 128 + 4 * (32 + 16)
    assert found.seconds == 1.28  # of the product alone
    assert roofline(program(copy, product), CHIP).seconds == (128 + 192) / 1e3  # all traffic


def test_bytes_in_the_main_memory():
    assert array_bytes("(f32[768]{0:T(1024)}, bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, s32[])") == 3076
    start = "((s8[1024]{0}), s8[16]{0:T(8)S(1)}, s32[]{:S(2)})"
    assert moved_bytes(start) == 16
    assert moved_bytes("(f32[4]{0}, f32[4]{0}, u32[]{:S(2)})") == 32


def test_convolutions_count_what_is_no_padding():
    images = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)

    def convolve(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)

    text = jax.jit(convolve).lower(images, kernel).compile().as_text()
    # 16 of 18 places of the kernel are inside along each axis: 4 x 3 + 2 x 2.
    assert roofline(text, CHIP).flops == 2 * 2 * 16 * 16 * 3 * 5


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="Expected the HLO text of a program; got 'nothing'"):
        parse_program("nothing")

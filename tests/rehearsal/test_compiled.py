"""What is kept of a program, and when it is compiled again."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from mixer.flops import CHIPS, Chip
from mixer.rehearsal import compiled, peer, rehearse
from mixer.sharding import create_mesh


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mixer/rehearsed"


@pytest.fixture
def compilations(monkeypatch):
    """The number of compilations so far, in a list."""
    counted, real = [0], compiled._compile

    def compile_once(*args):
        counted[0] += 1
        return real(*args)

    monkeypatch.setattr(compiled, "_compile", compile_once)
    return counted


def compile_product(mesh: Mesh, rows: int = 4) -> compiled.Program:
    x = jax.ShapeDtypeStruct((rows, 8), jnp.float32)
    return compiled.compile_program(jax.jit(lambda x: x @ x.T), x, mesh=mesh)


def test_a_program_is_compiled_once(compilations, cache):
    mesh = create_mesh()
    first = compile_product(mesh)
    assert "ENTRY" in first.text
    assert first.arguments_gib == 4 * 8 * 4 / 2**30
    assert compile_product(mesh) == first
    assert compilations == [1]
    compile_product(mesh, rows=5)  # another program
    compile_product(create_mesh(jax.devices()[:1]))  # other devices
    assert compilations == [3]
    assert len(list(cache.iterdir())) == 3


def test_the_version_and_the_options_of_the_compiler_count(compilations, monkeypatch):
    mesh = create_mesh()
    compile_product(mesh)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_new=true")
    compile_product(mesh)
    monkeypatch.setattr(compiled.importlib.metadata, "version", lambda package: "99")
    compile_product(mesh)
    assert compilations == [3]


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b broken", b"text"])
def test_a_damaged_file_is_written_again(compilations, cache, content):
    mesh = create_mesh()
    first = compile_product(mesh)
    (path,) = cache.iterdir()
    path.write_bytes(content)
    assert compile_product(mesh).text == first.text
    assert compile_product(mesh).text == first.text
    assert compilations == [2]


def test_without_a_place_to_write_it_is_compiled_each_time(compilations, tmp_path):
    (tmp_path / "mixer").write_text("a file")
    mesh = create_mesh()
    assert compile_product(mesh).text == compile_product(mesh).text
    assert compilations == [2]


def test_plain_flax_is_compiled_alike(tiny_options, monkeypatch):
    """Here for this machine's eight CPU devices."""
    monkeypatch.setitem(CHIPS, jax.devices()[0].device_kind, Chip(1e9, 1, 1e9))
    monkeypatch.setattr(peer, "slice_devices", lambda topology: jax.devices())
    report = peer.rehearse_plain_flax(tiny_options, "v3-8")
    assert report["fits"]
    assert report["estimated_by"] == "roofline"
    assert report["estimated_step_ms"] >= report["bound_step_ms"] > 0
    # The gradient of every parameter is averaged, and the loss; the state is replicated.
    assert set(report["collectives"]) == {"all-reduce"}


def test_the_ratio_is_of_the_same_kind_of_estimate():
    ours = {"fits": True, "peak_hbm_gib": 2.0, "estimated_by": "compiler"}
    ours |= {"estimated_step_ms": 8.0, "roofline_step_ms": 9.0}
    plain = {**ours, "peak_hbm_gib": 4.0, "estimated_step_ms": 10.0, "roofline_step_ms": 10.0}
    assert peer.compare(ours, plain) == {"time_ratio": 0.8, "hbm_ratio": 0.5}
    plain["estimated_by"] = "roofline"
    assert peer.compare(ours, plain) == {"time_ratio": 0.9, "hbm_ratio": 0.5}
    for key in ("estimated_step_ms", "roofline_step_ms", "estimated_by"):
        del plain[key]  # it does not fit
    assert peer.compare(ours, plain) == {"hbm_ratio": 0.5}


def test_a_family_without_a_plain_one_is_refused(tiny_options, monkeypatch):
    monkeypatch.setattr(peer, "slice_devices", lambda topology: jax.devices())
    tiny_options.model.update({"name": "gmlp", "mlp_dim": 8})
    for key in ("tokens_mlp_dim", "channels_mlp_dim"):
        del tiny_options.model[key]
    with pytest.raises(ValueError, match="Expected --peer for Mixer or ViT; gmlp is not written"):
        peer.rehearse_plain_flax(tiny_options, "v3-8")


@pytest.fixture
def tiny_options():
    from configs import digits

    config = digits.get_config()
    config.model.num_blocks = 1
    options, _ = rehearse.build_without_data(config)
    return options

"""The step: what it computes, that it is pure, and that the number of devices does not matter."""

import jax
import numpy as np
import optax
import pytest

from mixer.losses import Loss, sigmoid_cross_entropy, softmax_cross_entropy
from mixer.optimizer import create_adam
from mixer.rehearsal.communication import count_collectives
from mixer.sharding import batch_sharding, create_mesh, replicated, state_sharding, to_global
from mixer.train_state import create_train_state
from mixer.train_step import make_train_step


def host_batch(size: int, seed: int = 0, image_size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (size, image_size, image_size, 3), np.uint8),
        "labels": rng.integers(0, 10, (size, 1), np.int32),
    }


def start(
    model,
    mesh,
    *,
    image_size=8,
    mixup_alpha=0.5,
    optimizer=None,
    loss: Loss = sigmoid_cross_entropy,
    accumulation_steps=1,
    polyak_decay=0.0,
):
    """Returns the initial state and the jitted step on the mesh."""
    optimizer = optimizer or create_adam(
        lambda step: 1e-3,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.1,
        clip_global_norm=1.0,
        mu_dtype="float32",
    )
    abstract, init = create_train_state(
        model, optimizer, image_size=image_size, seed=0, averaged=polyak_decay > 0, mesh=mesh
    )
    step = make_train_step(
        model,
        optimizer,
        loss,
        num_classes=10,
        mixup_alpha=mixup_alpha,
        accumulation_steps=accumulation_steps,
        polyak_decay=polyak_decay,
        seed=0,
    )
    shardings = (state_sharding(mesh, abstract), replicated(mesh))
    return init({}), jax.jit(step, donate_argnums=0, out_shardings=shardings)


def test_the_polyak_average_follows_the_parameters(tiny_mixer, one_device_mesh):
    batch = to_global(host_batch(4), batch_sharding(one_device_mesh))
    optimizer = optax.sgd(0.1)
    state, step = start(tiny_mixer, one_device_mesh, optimizer=optimizer, polyak_decay=0.75)
    seen = [jax.device_get(state.params)]
    for _ in range(2):
        state, _ = step(state, batch)
        seen.append(jax.device_get(state.params))
    # a = 0.75 (0.75 p0 + 0.25 p1) + 0.25 p2
    expected = jax.tree.map(lambda a, b, c: 0.5625 * a + 0.1875 * b + 0.25 * c, *seen)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)  # noqa: E731
    jax.tree.map(close, state.averaged_params, expected)
    assert state.eval_params is state.averaged_params
    assert not np.allclose(state.eval_params["head"]["bias"], state.params["head"]["bias"])
    plain, _ = start(tiny_mixer, one_device_mesh)
    assert plain.averaged_params is None
    assert plain.eval_params is plain.params


def test_one_plain_update_by_hand(tiny_mixer, one_device_mesh):
    # Without randomness and with plain SGD the step is params - gradient of the mean loss.
    model = tiny_mixer.clone(dropout_rate=0.0, stochastic_depth_rate=0.0)
    state, step = start(model, one_device_mesh, mixup_alpha=0.0, optimizer=optax.sgd(1.0))
    params = jax.device_get(state.params)
    batch = host_batch(4)

    def mean_loss(params):
        logits = model.apply({"params": params}, batch["images"] / np.float32(127.5) - 1)
        targets = np.eye(10)[batch["labels"][:, 0]]
        return optax.sigmoid_binary_cross_entropy(logits, targets).sum() / 4

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(params)
    # The head starts at zero, so every logit is 0 and every class costs ln 2.
    np.testing.assert_allclose(loss, 10 * np.log(2), rtol=1e-6)
    state, metrics = step(state, to_global(batch, batch_sharding(one_device_mesh)))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["update_norm"], optax.tree.norm(gradient), rtol=1e-5)
    expected = jax.tree.map(np.subtract, params, gradient)
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-6),
        state.params,
        expected,
    )
    np.testing.assert_allclose(metrics["param_norm"], optax.tree.norm(expected), rtol=1e-5)
    assert int(state.step) == 1


def test_the_same_state_and_batch_give_the_same_bits_and_the_next_step_other_masks(
    tiny_mixer, one_device_mesh
):
    sharding = batch_sharding(one_device_mesh)
    batch = to_global(host_batch(16), sharding)
    frozen = optax.sgd(0.0)  # the parameters stay, only the step counts
    state, step = start(tiny_mixer, one_device_mesh, optimizer=frozen)
    state.params["head"]["kernel"] = jax.random.normal(jax.random.key(9), (16, 10))
    copy = jax.tree.map(jax.numpy.copy, state)
    state, first = step(state, batch)
    _, again = step(copy, batch)
    _, second = step(state, batch)
    assert float(first["loss"]) == float(again["loss"])
    assert float(first["loss"]) != float(second["loss"])


def losses_over(steps, model, mesh, image_size=8, **options):
    """Returns the losses, and the state after them."""
    state, step = start(model, mesh, image_size=image_size, **options)
    sharding = batch_sharding(mesh)
    losses = []
    for number in range(steps):
        state, metrics = step(state, to_global(host_batch(32, number, image_size), sharding))
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def softmax_losses_on_eight(tiny_mixer) -> list[float]:
    return losses_over(20, tiny_mixer, create_mesh(), loss=softmax_cross_entropy)[0]


@pytest.mark.parametrize(
    ("loss", "tolerance"),
    [
        (softmax_cross_entropy, dict(rtol=0, atol=1e-6)),
        # About 7 nats, where 1e-6 is two units in the last place of a float32.
        pytest.param(sigmoid_cross_entropy, dict(rtol=1e-6, atol=0), marks=pytest.mark.slow),
    ],
)
def test_one_device_and_eight_agree_on_the_loss_over_20_steps(
    tiny_mixer, one_device_mesh, softmax_losses_on_eight, loss, tolerance
):
    one, _ = losses_over(20, tiny_mixer, one_device_mesh, loss=loss)
    eight = softmax_losses_on_eight
    if loss is not softmax_cross_entropy:
        eight, _ = losses_over(20, tiny_mixer, create_mesh(), loss=loss)
    np.testing.assert_allclose(one, eight, **tolerance)
    assert len(set(one)) == 20  # it does move


@pytest.mark.parametrize(
    ("accumulation_steps", "fsdp"),
    [
        (4, 4),
        (4, 1),
        pytest.param(1, 8, marks=pytest.mark.slow),
    ],
)
def test_parts_of_the_batch_and_of_the_state_change_only_rounding(
    tiny_mixer, softmax_losses_on_eight, accumulation_steps, fsdp
):
    # Dropout, stochastic depth and mixup are on: their masks and partners are the batch's.
    losses, state = losses_over(
        20,
        tiny_mixer,
        create_mesh(fsdp=fsdp),
        loss=softmax_cross_entropy,
        accumulation_steps=accumulation_steps,
    )
    np.testing.assert_allclose(losses, softmax_losses_on_eight, rtol=0, atol=1e-5)
    kernel = state.params["MixerBlock_0"]["channel_mixing"]["Dense_0"]["kernel"]  # [16, 32]
    assert kernel.addressable_shards[0].data.shape == (16, 32 // fsdp)
    moment = state.opt_state[1][0].mu["MixerBlock_0"]["channel_mixing"]["Dense_0"]["kernel"]
    assert moment.sharding == kernel.sharding


def test_accumulated_gradients_are_summed_over_devices_once(tiny_mixer):
    mesh = create_mesh()
    state, step = start(tiny_mixer, mesh, accumulation_steps=4)
    batch = to_global(host_batch(4 * mesh.size), batch_sharding(mesh))
    program = step.lower(state, batch).compile().as_text()
    entry = program[program.index("\nENTRY ") :]  # without the bodies of loops
    assert count_collectives(entry) == count_collectives(program)
    assert count_collectives(entry)["all-reduce"]["count"] == 1


@pytest.mark.slow
def test_the_state_is_born_with_its_shardings(tiny_mixer):
    mesh = create_mesh()
    state, step = start(tiny_mixer, mesh)
    whole = replicated(mesh)
    assert all(leaf.sharding == whole for leaf in jax.tree.leaves(state))
    old = state.params["stem"]["kernel"]
    state, metrics = step(state, to_global(host_batch(16), batch_sharding(mesh)))
    assert all(leaf.sharding == whole for leaf in jax.tree.leaves((state, metrics)))
    with pytest.raises(RuntimeError, match="deleted"):  # donated
        np.asarray(old)

"""What the backward pass of a block computes again instead of keeping it, to save memory."""

from typing import Any

import flax.linen as nn
import jax

from mixer.errors import unknown_name

# What is kept. "elementwise" keeps the trunk and the results of products and convolutions, which
# blocks name "trunk" and "hidden", and computes what lies between them again. "block" keeps the
# input of the block alone.
_ELEMENTWISE = jax.checkpoint_policies.save_only_these_names("hidden", "trunk")
REMAT: dict[str, Any] = {
    "none": None,
    "elementwise": _ELEMENTWISE,
    "block": jax.checkpoint_policies.nothing_saveable,
}


def rematerialized(
    block: type[nn.Module], remat: str, static_argnums: tuple[int, ...] = ()
) -> type[nn.Module]:
    """Returns the class of a block whose backward pass computes again what `remat` says.

    `static_argnums` are the arguments of its `__call__` that are no arrays; 0 is `self`.

    Raises:
      ValueError: `remat` is unknown.
    """
    if remat not in REMAT:
        raise unknown_name("remat", remat, REMAT)
    policy = REMAT[remat]
    if policy is None:
        return block
    return nn.remat(block, policy=policy, static_argnums=static_argnums)

"""Stacks of blocks, as one block scanned over a leading layer axis of its weights."""

import flax.linen as nn
import jax

_UNROLLED = 4  # layers; longer unrolled stacks would take minutes to compile
# Checkpoint names of arrays that some remat policies save.
KEPT_OF_ATTENTION, KEPT_OF_ADAPTERS = "attention", "adapters"

_names = jax.checkpoint_policies.save_only_these_names
_POLICIES = {
    "dots": _names(KEPT_OF_ATTENTION, KEPT_OF_ADAPTERS),
    "adapters": _names(KEPT_OF_ADAPTERS),
    "full": jax.checkpoint_policies.nothing_saveable,
}
REMAT = ("none", *_POLICIES)


def stack(block, layers: int, in_axes=nn.broadcast, remat: str = "none"):
    """`block` scanned `layers` times: every leaf of its variables is stacked along axis 0.

    Short stacks are unrolled. A loop would zero-fill the residuals of the backward pass and slice
    them in every iteration: a seventh of the time of the grounded encoder's gradient on CPU.

    Args:
      block: a module class called as `block(...)(carry, *inputs) -> (carry, output)`.
      in_axes: axes of the inputs after the carry; 0 scans over layers, `nn.broadcast` shares.
      remat: one of REMAT, what each block saves for the backward pass besides its input: 'none',
        everything, so no product is recomputed; 'dots', the products of attention (the wide ones of
        the MLP are recomputed); 'adapters', the adapters' projections; 'full', nothing.
    """
    if remat != "none":
        # Inside a loop XLA cannot merge the recomputation with the forward pass anyway.
        block = nn.remat(block, policy=_POLICIES[remat], prevent_cse=layers <= _UNROLLED)
    return nn.scan(
        block,
        variable_axes={"params": 0, "frozen": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        out_axes=0,
        length=layers,
        unroll=layers if layers <= _UNROLLED else 1,
    )

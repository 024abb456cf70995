"""Blocks one behind another, as one block scanned over a leading layer axis of its weights."""

import flax.linen as nn
import jax

_UNROLLED = 4  # layers; the code of longer stacks would take minutes to compile
# Names under which a block marks what some ways of rematerialisation keep.
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

    A short stack is unrolled. Its loop would fill the stacks of what the backward pass keeps with
    zeros first and slice them in every turn: a seventh of the grounded encoder's gradient on CPU.

    Args:
      block: a module class called as `block(...)(carry, *inputs) -> (carry, output)`.
      in_axes: of the inputs behind the carry; 0 scans over layers, `nn.broadcast` shares.
      remat: one of REMAT, what each block keeps for the backward pass beside its input: 'none', as
        much as saves every product; 'dots', the products of attention (the wide ones of the MLP
        are computed again); 'adapters', the adapters' projections; 'full', nothing.
    """
    if remat != "none":
        # In a loop nothing could be merged with the forward pass anyway.
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

"""Blocks one behind another, as one block scanned over a leading layer axis of its weights."""

import flax.linen as nn

_UNROLLED = 4  # layers; the code of longer stacks would take minutes to compile


def stack(block, layers: int, in_axes=nn.broadcast):
    """`block` scanned `layers` times: every leaf of its variables is stacked along axis 0.

    A short stack is unrolled. Its loop would fill the stacks of what the backward pass keeps with
    zeros first and slice them in every turn: a seventh of the grounded encoder's gradient on CPU.

    Args:
      block: a module class called as `block(...)(carry, *inputs) -> (carry, output)`.
      in_axes: of the inputs behind the carry; 0 scans over layers, `nn.broadcast` shares.
    """
    return nn.scan(
        block,
        variable_axes={"params": 0, "frozen": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        out_axes=0,
        length=layers,
        unroll=layers if layers <= _UNROLLED else 1,
    )

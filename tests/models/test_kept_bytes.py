"""What a Llama block saves for the backward pass, from Llama-2-7b shapes without allocation."""

import functools

import pytest

from experiments.kept_bytes import ADAPTERS, SHAPE, kept
from slava_jax.nn.stack import REMAT

DYA = "DyA-MoQPE, projected router"
kept = functools.cache(kept)
# Entries of the seven kernels of a block: q, k, v, o, gate, up, down.
KERNELS = 4 * SHAPE.width**2 + 3 * SHAPE.width * SHAPE.mlp_width
# What every backward pass of a block needs, in bfloat16: its input and that of the MLP's
# norm, q, k and v, and the two sides of SwiGLU.
LEAST = 2 * (5 * SHAPE.width + 2 * SHAPE.mlp_width)


@pytest.mark.parametrize("quantized", [False, True])
def test_adapters_with_a_frozen_a_keep_nearly_nothing_more(quantized):
    """At most 1 % more than the frozen block; plain LoRA and the hidden-state router need more."""
    frozen = kept("frozen only", quantized).token
    assert frozen <= kept("LoRA-FA", quantized).token <= 1.01 * frozen
    assert frozen <= kept(DYA, quantized).token <= 1.01 * frozen
    assert kept("LoRA", quantized).token > 1.1 * frozen
    assert kept("DyA-MoQPE, hidden-state router", quantized).token > 1.1 * frozen


def test_the_frozen_block_keeps_what_it_must():
    """Inputs of norms, both sides of SwiGLU, q, k and v of attention; 16 bytes of positions."""
    assert LEAST <= kept("frozen only", True).token <= LEAST + 16


@pytest.mark.parametrize("name", ADAPTERS)
def test_no_int8_kernel_is_kept_as_floats(name):
    """One byte per entry, plus up to a twentieth for scales, norms and adapters."""
    assert KERNELS <= kept(name, True).weights < 1.05 * KERNELS
    assert kept(name, False).weights > 2 * KERNELS * 0.99


@pytest.mark.parametrize("name", ["frozen only", DYA])
def test_rematerialisation_keeps_less_and_less(name):
    """In the order of REMAT; the last one saves only the input of the block."""
    tokens = [kept(name, True, remat).token for remat in REMAT]
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[1] < 0.55 * tokens[0]
    assert tokens[3] <= 2 * SHAPE.width + 16


def test_what_the_adapters_projections_cost():
    """`adapters` saves R numbers per projection more than `full`; equal without adapters."""
    more = kept(DYA, True, "adapters").token - kept(DYA, True, "full").token
    assert 4 * 16 * 2 <= more <= 2 * 4 * 16 * 2 + 16
    assert kept("frozen only", True, "adapters") == kept("frozen only", True, "full")

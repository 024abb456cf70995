"""Connectors: map image tokens of the vision encoder to tokens of a language model.

    linear   one biased Linear (LiMBeR, LLaVA v1)
    mlp      Linear, GELU, Linear (LLaVA-1.5)

Axis letters: see nn/attention.py.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from slava_jax.nn.adapters import AdapterCall, Linear, dropout
from slava_jax.nn.attention import ACTIVATIONS

KINDS = ("linear", "mlp")


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """Kind of connector, its input, and the dropout after it in training (LiMBeR: 0.1).

    `cls`: read the `<cls>` token before the patches. LLaVA reads only patches, which works for
    encoders with informative patch tokens such as CLIP; an encoder trained as a classifier has its
    information in `<cls>`.
    """

    kind: str = "linear"
    dropout: float = 0.0
    cls: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"connector.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"connector.dropout must be 0 or more and below 1, got {self.dropout}")


class Connector(nn.Module):
    """Image tokens float[B, M, D_vit] -> float[B, M, width]."""

    config: ConnectorConfig
    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens, call: AdapterCall):
        x = Linear(self.width, True, dtype=self.dtype, name="first")(tokens)
        if self.config.kind == "mlp":
            x = ACTIVATIONS["gelu"](x)
            x = Linear(self.width, True, dtype=self.dtype, name="second")(x)
        rate = self.config.dropout
        if rate and call.example_id is not None:
            x = dropout(x, rate, self.make_rng("dropout"), call.example_id)
        return x

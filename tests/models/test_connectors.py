"""Connectors against their formulas."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from slava_jax.models.connectors import KINDS, Connector, ConnectorConfig
from slava_jax.nn.adapters import AdapterCall


@pytest.mark.parametrize("kind", KINDS)
def test_a_connector_is_one_linear_layer_or_two_with_gelu_between(kind):
    rng = np.random.default_rng(0)
    layers = {
        name: {"kernel": rng.normal(size=(width, 6)), "bias": rng.normal(size=6)}
        for name, width in (("first", 4), ("second", 6))
    }
    tokens = rng.normal(size=(2, 3, 4))
    wanted = tokens @ layers["first"]["kernel"] + layers["first"]["bias"]
    if kind == "mlp":
        half = 0.5 * (1 + np.vectorize(math.erf)(wanted / math.sqrt(2)))
        wanted = (wanted * half) @ layers["second"]["kernel"] + layers["second"]["bias"]
    else:
        del layers["second"]
    model = Connector(ConnectorConfig(kind), 6)
    call = AdapterCall(jnp.int32(0))
    variables = {
        "params": {n: {k: jnp.float32(a) for k, a in of.items()} for n, of in layers.items()}
    }
    found = model.apply(variables, jnp.float32(tokens), call)
    np.testing.assert_allclose(found, wanted, atol=1e-4)

"""DyA-MoQPE, the adapted linear layer of section 4.1: a mixture of LoRA experts with frozen
down-projection and dynamic rank, on a frozen (int8) kernel.

    h = x A                          A[D_in, R] frozen
    g = top-k of softmax(router(h))  the kept probabilities are renormalised
    y = x W0 + (alpha / b) * sum_k g_k ((h * mask_b) B_k)

`b` is the rank of this call, a traced value, so a new rank never recompiles.
Axis letters: see nn/attention.py.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from slava_jax.nn.matmul import matmul
from slava_jax.nn.quantized import int8_matmul
from slava_jax.nn.stack import KEPT_OF_ADAPTERS


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Hyperparameters of DyA-MoQPE; the defaults are the paper's (section 4.7).

    Attributes:
      experts: K. top_k: experts kept per token; at least 2, because a single kept gate would
        always be 1 and the router would learn nothing (1 is allowed with K = 1, which is plain
        LoRA-FA).
      r_min, r_max: the rank is drawn uniformly from this range in training.
      alpha: scale of the update, divided by the rank.
      dropout: on h, in training.
      rank_normalisation: scales the gradient of B (train/optim.py); off for comparison.
      router: 'projected' reads h (R wide) and saves nothing more for its gradient; 'hidden' reads
        x and must save x (D_in wide).
      train_a: A is trained too, which must save x; with K = 1 this is plain LoRA.
    """

    experts: int = 4
    top_k: int = 2
    r_min: int = 4
    r_max: int = 16
    alpha: float = 1.0
    dropout: float = 0.05
    router: str = "projected"
    rank_normalisation: bool = True
    train_a: bool = False

    def __post_init__(self):
        if not 1 <= self.r_min <= self.r_max:
            raise ValueError(f"adapter ranks need 1 <= r_min <= r_max, got {self}")
        if self.experts < 1:
            raise ValueError(f"adapter.experts must be 1 or more, got {self}")
        if self.experts > 1 and not 2 <= self.top_k <= self.experts:
            raise ValueError(f"adapter.top_k must be between 2 and experts, got {self}")
        if not self.alpha > 0:
            raise ValueError(f"adapter.alpha must be above 0, got {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter.dropout must be 0 or more and below 1, got {self}")
        if self.router not in ("projected", "hidden"):
            raise ValueError(f"adapter.router must be 'projected' or 'hidden', got {self.router!r}")


@flax.struct.dataclass
class AdapterCall:
    """Adapter inputs of one forward pass.

    Attributes:
      rank: int32[], the b of this pass.
      example_id: uint32[B] in training: seeds each example's dropout, so that results do not depend
        on the number of devices. `None` disables dropout.
    """

    rank: jax.Array
    example_id: jax.Array | None = None


def dropout(x, rate: float, key, example_id):
    """Dropout of x `[B, ...]` with a key per example id, independent of its place in the batch."""
    if example_id is None or rate == 0.0:
        return x
    draw = jax.vmap(
        lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, x.shape[1:])
    )
    return jnp.where(draw(example_id), x / (1 - rate), 0).astype(x.dtype)


def gates(logits, top_k: int):
    """Soft-merge weights: float32[..., K] with at most `top_k` entries above 0, summing to 1."""
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    experts = probabilities.shape[-1]
    if top_k < experts:
        # Rank by comparison instead of sorting. Ties count the first as larger, so that never more
        # than top_k experts are kept.
        one, other = probabilities[..., :, None], probabilities[..., None, :]
        before = jnp.tri(experts, k=-1, dtype=bool)
        larger = (other > one) | ((other == one) & before)
        probabilities = jnp.where(larger.sum(axis=-1) < top_k, probabilities, 0)
    return probabilities / probabilities.sum(axis=-1, keepdims=True)


def split_base(frozen: dict) -> tuple[dict, dict]:
    """Splits the collection `frozen` into (base, every frozen A): nested dicts of the same arrays.

    Several adapters can then share one base; `joined` combines one of them with it.
    """
    base, lora_a = {}, {}
    for name, value in frozen.items():
        if isinstance(value, dict):
            base[name], below = split_base(value)
            if below:
                lora_a[name] = below
        else:
            (lora_a if name == "lora_a" else base)[name] = value
    return base, lora_a


def split_frozen(frozen: dict) -> tuple[dict, dict]:
    """Splits a model's collection `frozen` into (language model without adapters, the rest).

    Arrays are not copied. Several assistants can share the first; the second is specific to one:
    every frozen A and the frozen layers of the vision encoder.
    """
    parts = {"language_model": frozen["language_model"]} if "language_model" in frozen else {}
    base, own = split_base(parts)
    beside = {name: part for name, part in frozen.items() if name != "language_model"}
    return base, {**beside, **own}


def joined(left: dict, right: dict) -> dict:
    """Merges two nested dicts of arrays; `right` wins where both have an array."""
    out = dict(left)
    for name, value in right.items():
        both = isinstance(value, dict) and name in left
        out[name] = joined(left[name], value) if both else value
    return out


class Linear(nn.Module):
    """`y = x W (+ b)`, optionally frozen, int8 and adapted; parameter paths do not change.

    `kernel[D_in, D_out]` is in the collection `params`, or in `frozen` if frozen (with a `scale`
    next to it if quantized). The adapter adds `lora_a[D_in, R]` (frozen, or in params if it is
    trained), `lora_b[K, R, D_out]` and `router` (params).
    """

    features: int
    bias: bool = False
    frozen: bool = False
    quantized: bool = False
    adapter: AdapterConfig | None = None
    dtype: jnp.dtype = jnp.float32
    int8_activations: bool = False  # with a quantized kernel; see quantized.int8_matmul
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x, call: AdapterCall | None = None):
        """x float[B, ..., D_in] -> float[B, ..., D_out]; an adapted layer needs `call`."""
        x = x.astype(self.dtype)
        y = self._base(x)
        if self.bias:
            y = y + self._bias().astype(self.dtype)
        if self.adapter is not None:
            y = y + self._update(x, call).astype(self.dtype)
        return y

    def _bias(self):
        shape = (self.features,)
        if self.frozen:
            return self.variable("frozen", "bias", jnp.zeros, shape).value
        return self.param("bias", nn.initializers.zeros, shape)

    def _base(self, x):
        shape, init = (x.shape[-1], self.features), self.kernel_init
        if not self.frozen:
            return matmul(x, self.param("kernel", init, shape))
        if not self.quantized:
            kernel = self.variable("frozen", "kernel", self._random(init), shape).value
            return jnp.dot(x, kernel.astype(self.dtype))
        kernel = self.variable("frozen", "kernel", jnp.zeros, shape, jnp.int8).value
        scale = self.variable("frozen", "scale", jnp.ones, shape[1:]).value
        return int8_matmul(x, kernel, scale, self.int8_activations)

    def _random(self, init):
        return lambda shape: init(self.make_rng("params"), shape)

    def _update(self, x, call):
        a = self.adapter
        # Variance 1 / D_in keeps h at the scale of x, which sets the effective learning rate of B.
        init_a, shape = nn.initializers.normal(x.shape[-1] ** -0.5), (x.shape[-1], a.r_max)
        if a.train_a:
            h = matmul(x, self.param("lora_a", init_a, shape))
        else:
            lora_a = self.variable("frozen", "lora_a", self._random(init_a), shape).value
            h = jnp.dot(x, lora_a.astype(x.dtype))
        h = checkpoint_name(h, KEPT_OF_ADAPTERS)
        lora_b = self.param("lora_b", nn.initializers.zeros, (a.experts, a.r_max, self.features))
        seen = router = key = None
        if a.experts > 1:
            seen = h if a.router == "projected" else x
            # Not initialised at zero: equal experts with equal gates would stay equal.
            router = self.param("router", nn.initializers.normal(0.02), (seen.shape[-1], a.experts))
        if call.example_id is not None and a.dropout > 0:
            key = self.make_rng("dropout")
        # Recomputed in the backward pass, so that nothing wider than h is saved.
        mixed = jax.checkpoint(_mixed, static_argnums=0, prevent_cse=False)
        update, weights = mixed(a, h, seen, router, lora_b, key, call)
        if weights is not None:
            self.sow("intermediates", "gates", weights)
        return update


def _mixed(a: AdapterConfig, h, seen, router, lora_b, key, call: AdapterCall):
    """(the combined update `[..., D_out]`, the gates `[..., K]` or `None`)."""
    weights = None
    if router is not None:
        weights = gates(matmul(seen.astype(jnp.float32), router), a.top_k)
    if key is not None:
        h = dropout(h, a.dropout, key, call.example_id)
    # Scale here, where the array is R wide, not after the product, where it is D_out wide.
    scale = jnp.where(jnp.arange(a.r_max) < call.rank, a.alpha / call.rank.astype(jnp.float32), 0)
    h = (h.astype(jnp.float32) * scale).astype(h.dtype)
    if weights is not None:
        h = (weights[..., :, None].astype(h.dtype) * h[..., None, :]).reshape(*h.shape[:-1], -1)
    return matmul(h, lora_b.reshape(-1, lora_b.shape[-1])), weights

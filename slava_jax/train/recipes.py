"""What each stage minimises, as pure functions of (params, frozen, microbatch).

An objective has `counts(batch)`, the denominators of its losses, and `loss(...)`, which gives
(loss, sums): the loss already divided by the global counts, and sums of what is reported, to be
added up over microbatches and devices. Validation passes `key = None`: no dropout.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from slava_jax.nn.adapters import AdapterCall, AdapterConfig
from slava_jax.train.losses import class_cross_entropy, match_cross_entropy

SETTLED = "settled"


@dataclasses.dataclass(frozen=True)
class Vision:
    """The ViT as a classifier (section 4.4)."""

    model: nn.Module
    smoothing: float = 0.0
    adapter = None  # of this stage

    def counts(self, batch):
        """Images of the batch; rows that only fill it up have `row_weight` 0."""
        return {"images": jnp.sum(_row_weights(batch))}

    def loss(self, params, frozen, batch, totals, key, rank):
        """See the module's text."""
        logits = self.model.apply({"params": params, "frozen": frozen}, batch["images"])
        weights = _row_weights(batch)
        loss = class_cross_entropy(logits, batch["labels"], weights, self.smoothing)
        right = jnp.sum((jnp.argmax(logits, axis=-1) == batch["labels"]) * weights)
        loss = loss / totals["images"]
        return loss, {"loss": loss, "top1": right / totals["images"]}


def _row_weights(batch):
    return batch.get("row_weight", jnp.ones(batch["labels"].shape, jnp.float32))


@dataclasses.dataclass(frozen=True)
class Language:
    """Next-token prediction by the plain Llama on instruction text."""

    model: nn.Module
    adapter = None  # of this stage

    def counts(self, batch):
        """Target tokens of the batch."""
        return {"tokens": jnp.sum(batch["target_weights"])}

    def loss(self, params, frozen, batch, totals, key, rank):
        """See the module's text."""
        text = [batch[name] for name in ("tokens", "order", "targets", "target_weights")]
        loss = self.model.apply({"params": params}, *text, method="nats") / totals["tokens"]
        return loss, {"loss": loss}


@dataclasses.dataclass(frozen=True)
class Assistant:
    """ITM + LM (section 4.5), both over global counts; LM is a mean over answer tokens.

    `frozen` may hold, under `SETTLED`, parameters that the stage leaves as they are.
    """

    model: nn.Module
    adapter: AdapterConfig | None = None

    def counts(self, batch):
        """Answer tokens, and right and wrong pairs, of the batch."""
        return {
            "tokens": jnp.sum(batch["target_weights"]),
            "pairs": 2 * jnp.sum(batch["wrong_weight"]),
        }

    def loss(self, params, frozen, batch, totals, key, rank):
        """See the module's text; `rank` int32[] is the microbatch's, `key` seeds its dropout."""
        held = {name: leaves for name, leaves in frozen.items() if name != SETTLED}
        variables = {"params": {**params, **frozen.get(SETTLED, {})}, "frozen": held}
        if key is None:
            out = self.model.apply(variables, batch, AdapterCall(rank))
        else:
            call = AdapterCall(rank, batch["example_id"])
            out = self.model.apply(variables, batch, call, rngs={"dropout": key})
        lm = out["nats"] / jnp.maximum(totals["tokens"], 1)
        itm = match_cross_entropy(out["match"], out["match_wrong"], batch["wrong_weight"])
        itm = itm / jnp.maximum(totals["pairs"], 1)
        return lm + itm, {"loss": lm + itm, "lm": lm, "itm": itm}


def draw_rank(key, adapter: AdapterConfig | None):
    """The rank of a microbatch, int32[], uniform over r_min..r_max (section 4.1)."""
    if adapter is None:
        return jnp.int32(0)
    return jax.random.randint(key, (), adapter.r_min, adapter.r_max + 1)

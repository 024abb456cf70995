"""The objective of each stage, as pure functions of (params, held, microbatch).

An objective has `counts(batch)`, the denominators of its losses, and `loss(...)`, which returns
(loss, sums): the loss divided by the global counts, and metrics that add up over microbatches and
devices. Validation passes `key = None`: no dropout. `params` are the parameters that the stage
trains; `held` are the collections of all others.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from slava_jax.data.fact_targets import FactTargets
from slava_jax.models.interface import Batch, Prompt, VisionLanguageModel
from slava_jax.nn.adapters import AdapterCall, AdapterConfig, joined
from slava_jax.train.losses import (
    class_cross_entropy,
    fact_counts,
    fact_loss,
    match_cross_entropy,
)


def vision_problems(stage: Mapping) -> Iterator[str]:
    """Problems with the loss settings of the vision stage."""
    if not 0 <= stage["smoothing"] < 1:
        yield f"smoothing: must be 0 or more and below 1, is {stage['smoothing']}"
    if not 0 <= stage["fact_weight"] < math.inf:
        yield f"fact_weight: must be 0 or more, is {stage['fact_weight']}"


@dataclasses.dataclass(frozen=True)
class Vision:
    """The ViT as a classifier (section 4.4) that also learns the facts of an image.

    `model` has an output for each class, then those of `facts`.
    """

    model: nn.Module
    smoothing: float = 0.0
    facts: FactTargets = FactTargets()
    fact_weight: float = 1.0
    adapter = None  # of this stage

    def counts(self, batch):
        """Images of the batch, and those that know each fact; padding rows count 0."""
        weights = _row_weights(batch)
        counts = {"images": jnp.sum(weights)}
        if self.facts.outputs:
            counts.update(fact_counts(self.facts, batch, weights))
        return counts

    def loss(self, params, held, batch, totals, key, rank):
        """See the module docstring."""
        outputs = self.model.apply(variables_of(params, held), batch["images"])
        weights, classes = _row_weights(batch), outputs.shape[-1] - self.facts.outputs
        logits = outputs[:, :classes]
        loss = class_cross_entropy(logits, batch["labels"], weights, self.smoothing)
        right = jnp.sum((jnp.argmax(logits, axis=-1) == batch["labels"]) * weights)
        loss, top1 = loss / totals["images"], right / totals["images"]
        if not self.facts.outputs:
            return loss, {"loss": loss, "top1": top1}
        facts = fact_loss(outputs[:, classes:], self.facts, batch, totals, weights)
        total = loss + self.fact_weight * facts
        return total, {"loss": total, "facts": facts, "top1": top1}


def _row_weights(batch):
    return batch.get("row_weight", jnp.ones(batch["labels"].shape, jnp.float32))


@dataclasses.dataclass(frozen=True)
class Language:
    """Next-token prediction by the plain language model on instruction text."""

    model: nn.Module
    adapter = None  # of this stage

    def counts(self, batch):
        """Target tokens of the batch."""
        return {"tokens": jnp.sum(batch["target_weights"])}

    def loss(self, params, held, batch, totals, key, rank):
        """See the module docstring."""
        text = [batch[name] for name in ("tokens", "order", "targets", "target_weights")]
        loss = self.model.apply(variables_of(params, held), *text, method="nats") / totals["tokens"]
        return loss, {"loss": loss}


@dataclasses.dataclass(frozen=True)
class Assistant:
    """LM loss, plus ITM loss if the model has a matching head (section 4.5).

    LM is a mean over all answer tokens of the global batch, ITM over all its pairs.
    """

    model: VisionLanguageModel

    @property
    def adapter(self) -> AdapterConfig | None:
        """The adapter settings of this stage."""
        return self.model.adapter

    def counts(self, batch):
        """Answer tokens, and matching and mismatched pairs, of the batch."""
        return {
            "tokens": jnp.sum(batch["weights"]),
            "pairs": 2 * jnp.sum(batch["mismatch_weight"]),
        }

    def loss(self, params, held, batch, totals, key, rank):
        """See the module docstring; `rank` int32[] is the microbatch's, `key` seeds its dropout."""
        call = AdapterCall(rank, None if key is None else batch["example_id"])
        out = self.model.apply(
            variables_of(params, held), model_batch(self.model, batch), call, method="outputs",
            rngs=None if key is None else {"dropout": key},
        )  # fmt: skip
        lm = out.nats / jnp.maximum(totals["tokens"], 1)
        if not self.model.matches:
            return lm, {"loss": lm, "lm": lm}
        itm = match_cross_entropy(out.match, out.match_mismatched, batch["mismatch_weight"])
        itm = itm / jnp.maximum(totals["pairs"], 1)
        return lm + itm, {"loss": lm + itm, "lm": lm, "itm": itm}


def variables_of(params: dict, held: dict) -> dict:
    """The collections of a model, from the parameters a stage trains and those it keeps fixed."""
    return {
        "params": joined(held.get("params", {}), params),
        "frozen": held.get("frozen", {}),
    }


def model_batch(model: VisionLanguageModel, fields: dict) -> Batch:
    """Converts the fields of an assistant batch (data/assistant_batches.py) to model inputs."""
    prompt = Prompt(fields["images"], fields["tokens"], fields["image_index"], fields["length"])
    mismatched = mismatched_images(fields) if model.matches else None
    return Batch(prompt, fields["answer_start"], fields["weights"], mismatched)


def mismatched_images(fields: dict):
    """int32[B, I]: indices of the batch's images, each target image replaced by a mismatched one.

    Images are numbered row by row. The pipeline chooses the row that each replacement comes from
    (data/pairs.py).
    """
    B, I = fields["images"].shape[:2]  # noqa: E741
    rows, target = jnp.arange(B), jnp.asarray(fields["target_image"])
    partner = rows + fields["mismatch_offset"]
    wrong = partner * I + target[partner]
    return jnp.arange(B * I).reshape(B, I).at[rows, target].set(wrong)


def draw_rank(key, adapter: AdapterConfig | None):
    """The rank of a microbatch, int32[], uniform over r_min..r_max (section 4.1)."""
    if adapter is None:
        return jnp.int32(0)
    return jax.random.randint(key, (), adapter.r_min, adapter.r_max + 1)

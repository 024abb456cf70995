"""A Llama as a plain language model with the training step of `main`, for the benchmarks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from slava_jax.config import default_config
from slava_jax.models.decoder import BlockInputs, Decoder, DecoderConfig, DecoderMode
from slava_jax.nn.adapters import AdapterCall
from slava_jax.nn.vocabulary import summed_nats
from slava_jax.train.optim import make_optimizer
from slava_jax.train.parallel import make_runner
from slava_jax.train.step import TrainState


class PlainModel(nn.Module):
    """Summed next-token loss of a batch; without adapters the first token's row is trained."""

    config: DecoderConfig
    mode: DecoderMode

    @nn.compact
    def __call__(self, batch, rank):
        llama = Decoder(self.config, self.mode, name="language_model")
        x = llama.embed(batch["tokens"])
        if self.mode.adapter is None:
            row = self.param("row", nn.initializers.normal(0.02), (self.config.width,))
            first = (jnp.arange(x.shape[1]) == 0)[None, :, None]
            x = jnp.where(first, row.astype(x.dtype), x)
        order = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
        states, _ = llama(x, BlockInputs(order, order, AdapterCall(rank, batch["example_id"])))
        vocabulary = llama.vocabulary()
        return summed_nats(vocabulary, states, batch["targets"], batch["target_weights"])


@dataclasses.dataclass(frozen=True)
class PlainObjective:
    """See train/recipes.py."""

    model: PlainModel

    @property
    def adapter(self):
        """The adapters whose rank is sampled."""
        return self.model.mode.adapter

    def counts(self, batch):
        """Target tokens."""
        return {"tokens": jnp.sum(batch["target_weights"])}

    def loss(self, params, frozen, batch, totals, key, rank):
        """Mean nats per token."""
        variables = {"params": params, "frozen": frozen}
        nats = self.model.apply(variables, batch, rank, rngs={"dropout": key})
        loss = nats / totals["tokens"]
        return loss, {"loss": loss}


def plain_batch(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Converts int32[B, T] token ids to a batch; the last token of a row has no target."""
    rows, length = tokens.shape
    weights = np.ones((rows, length), np.float32)
    weights[:, -1] = 0
    return {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "target_weights": weights,
        "example_id": np.arange(rows, dtype=np.uint32),
    }


def shapes_of(model: PlainModel, batch: dict) -> dict:
    """The collections `params` and `frozen` as shapes."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(model.init, keys, batch, jnp.int32(1))
    return {name: shapes[name] for name in ("params", "frozen")}


def stepper(model: PlainModel, variables: dict, batch: dict):
    """A function that runs one update and returns its loss, which may still be computing.

    Uses a mesh of all devices, so the frozen weights are not copied.
    """
    config = default_config().assistant
    with config.unlocked():
        config.strategy = "mesh"
    optimizer = make_optimizer(config)
    runner = make_runner(config, PlainObjective(model), optimizer)
    state = TrainState.create(variables["params"], optimizer)
    held = [*runner.place(state, variables["frozen"])]

    def step() -> jax.Array:
        held[0], metrics = runner.step(held[0], held[1], batch, jax.random.key(2))
        return metrics["loss"]

    return step

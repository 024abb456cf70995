"""Conversations of several turns, from training to the answers that are scored."""

import dataclasses

import numpy as np
from tiny_run import get_config

from slava_jax.data.assistant_batches import AssistantEvaluation
from slava_jax.data.chat import encode_examples
from slava_jax.data.tokenizer import decode_text
from slava_jax.train.datasets import Split, prepare
from slava_jax.train.stages import assistant_data


def conversations(split: Split, form, tokenizer) -> Split:
    """Two turns about each image, instead of its instructions."""
    firsts = {item.target: item for item in reversed(split.instructions)}
    items = [
        dataclasses.replace(
            item, id=f"talk {key}", question="Is it large?", answer="No.", task="vqa",
            turns=(("<image> What is it?", "A sample."),), metadata={},
        )
        for key, item in firsts.items()
    ]  # fmt: skip
    return dataclasses.replace(
        split, instructions=items, examples=encode_examples(items, tokenizer, form)
    )


def learned(config, datasets, split, tokenizer) -> str:
    """The weighted tokens in the first row of a batch."""
    data = assistant_data(config, datasets, split)
    batch = AssistantEvaluation(data, 2, 2, rows=range(2))[0]
    start, weights = batch["answer_start"][0], batch["weights"][0]
    ids = batch["tokens"][0][start : start + len(weights)]
    return decode_text(tokenizer, ids[np.flatnonzero(weights[: len(ids)])])


def test_every_answer_is_learned_and_the_last_one_is_scored(tmp_path):
    """The training loss covers both answers, the test loss only the last one."""
    config = get_config()
    config.model, config.template = "inline", "plain"
    config.assistant.buckets = ((500, 256, 1),)
    datasets = prepare(config, tmp_path)
    tokenizer = datasets.tokenizer
    splits = {
        name: conversations(getattr(datasets, name), datasets.form, tokenizer)
        for name in ("train", "test")
    }
    datasets = dataclasses.replace(datasets, **splits)
    assert learned(config, datasets, datasets.train, tokenizer) == "A sample.No."
    assert learned(config, datasets, datasets.test, tokenizer) == "No."

"""A tiny assistant as a language model, for tests of what leaves and comes in."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from tiny_model import random_variables, tiny

from slava_jax.data.tokenizer import train_tokenizer
from slava_jax.models.slava import Slava
from slava_jax.nn.adapters import AdapterCall

VOCABULARY = 264
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (2, 20), dtype=np.int32)
SPECIAL = np.arange(VOCABULARY, VOCABULARY + 4, dtype=np.int32)
ALL_TOKENS = np.append(TOKENS, [SPECIAL, SPECIAL], axis=1)


@functools.cache
def tokenizer():
    """Of `VOCABULARY` tokens; never change it."""
    return train_tokenizer(["the film is thin"] * 3, VOCABULARY)


@functools.cache
def made(experts=1, alpha=1.0, train_a=False, **llama):
    """(model, variables) with noise in every leaf; settings of adapters and Llama."""
    config = tiny(vocabulary=VOCABULARY, experts=experts, alpha=alpha)
    shape = dataclasses.replace(config.language_model, **llama)
    adapter = dataclasses.replace(config.adapter, train_a=train_a)
    config = dataclasses.replace(config, language_model=shape, adapter=adapter)
    model = Slava(config)
    return model, random_variables(model)


def logits_of(model, variables, tokens=TOKENS, rank=6):
    """Next-token logits float32[B, T, V + 4] of int32[B, T]."""
    order = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    apply = jax.jit(functools.partial(model.apply, method="next_token_logits"))
    return np.asarray(apply(variables, tokens, order, AdapterCall(jnp.int32(rank))))

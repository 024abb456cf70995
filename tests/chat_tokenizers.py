"""Tiny tokenizers of the kinds that chat models have, for the tests of what is made of chats."""

import functools
import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from slava_jax.data.tokenizer import train_tokenizer

TEXTS = ["USER: What is the mean size? ASSISTANT: The mean size is 120 nm."] * 20
# As SmolLM2's, with a system prompt of its own.
TEMPLATE = """{% for message in messages %}
{% if loop.first and message.role != 'system' %}
{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' -}}
{% endif %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@functools.cache
def plain() -> PreTrainedTokenizerFast:
    """Byte-level, as this library trains them: `<s>` is 2 and `</s>` is 3."""
    return train_tokenizer(TEXTS, 320)


@functools.cache
def chatty() -> PreTrainedTokenizerFast:
    """Byte-level with the tokens of chatml, a template, and a token that is not special."""
    tokenizer = train_tokenizer(TEXTS, 320)
    special = [AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_tokens([*special, AddedToken("<tool>", special=False)])
    tokenizer.chat_template = TEMPLATE
    tokenizer.split_special_tokens = False  # as those that were not made here
    return tokenizer


@functools.cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's: a blank before every text, and '▁' for blanks; bytes for what is not known."""
    model = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    model.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    model.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=names[:3], show_progress=False)
    model.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no token of two words
    model.train_from_iterator(TEXTS, trainer)
    learnt = json.loads(model.to_str())
    learnt["pre_tokenizer"] = None
    vocabulary = learnt["model"]["vocab"]
    for name in names:
        vocabulary.setdefault(name, len(vocabulary))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(learnt)),
        unk_token="<unk>", bos_token="<s>", eos_token="</s>",
    )  # fmt: skip

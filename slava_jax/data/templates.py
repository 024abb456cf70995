"""Chat templates: the text and tokens between the messages of a conversation.

A template is rendered with placeholders instead of the texts, once for each order of roles. So it
never sees user text, and a hundred thousand conversations need only a handful of renderings.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerFast

from slava_jax.data.rendering import RenderingError, render, render_apart
from slava_jax.errors import UserError

TOKENIZERS_OWN = "tokenizer"
TEMPLATES = {
    # Question and answer unchanged; a newline between the turns.
    "plain": (
        "{{ bos }}{% for m in messages %}"
        "{% if m.role == 'user' and not loop.first %}{{ '\n' }}{% endif %}{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ end }}{% endif %}{% endfor %}"
    ),
    # As 'vicuna_v1' in LLaVA-1.5's conversation.py.
    "vicuna_v1": (
        "{{ bos }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}"
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions.{% endif %}{{ ' ' }}"
        "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }}"
        "{{ ' ASSISTANT:' }}{% elif m.role == 'assistant' %}{{ ' ' }}{{ m.content }}{{ end }}"
        "{% endif %}{% endfor %}"
    ),
    # As in Llama 2's training and LLaVA's 'llava_llama_2': every turn starts with bos.
    "llama2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos }}{{ '[INST] ' }}"
        "{% if loop.previtem is defined and loop.previtem.role == 'system' %}"
        "{{ '<<SYS>>\n' }}{{ loop.previtem.content }}{{ '\n<</SYS>>\n\n' }}{% endif %}"
        "{{ m.content }}{{ ' [/INST]' }}{% elif m.role == 'assistant' %}"
        "{{ ' ' }}{{ m.content }}{{ ' ' }}{{ end }}{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' }}{{ m.role }}{{ '\n' }}{{ m.content }}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
_NEEDED = {"chatml": ("<|im_start|>", "<|im_end|>")}  # tokens that a template requires
# Whitespace that no template writes surrounds the text, to detect whether the text is stripped.
_LEFT, _RIGHT = "\x0b", "\x0c"
_MARK = re.compile(f"({_LEFT}?)MESSAGE([0-9]+)TEXT({_RIGHT}?)")
_BOS, _END = "\x02bos\x02", "\x02end\x02"  # tokens that the tokenizer need not know


class ChatError(UserError, ValueError):
    """A conversation that cannot be tokenised; the message names it."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """The position of one message in a template.

    Attributes:
      before: texts and token ids between the previous message and this one.
      strips: whether the template strips the text on the left, on the right.
      lead, tail: template text around an answer that the model has to write as well: whitespace
        before it, and everything up to the end token after it.
      continues: whether an answer directly follows template text, so that no new text starts there.
    """

    before: tuple[str | int, ...]
    strips: tuple[bool, bool]
    lead: str = ""
    tail: str = ""
    continues: bool = False


def layouts(
    template: str,
    orders: Iterable[tuple[str, ...]],
    end_id: int,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[tuple[str, ...], tuple[Slot, ...]]:
    """Returns the slots of the messages for each order of roles; orders must end with 'assistant'.

    An answer is followed by `end_id`, which is not part of any slot; text after the last answer is
    dropped.

    Raises:
      ChatError: the tokenizer lacks tokens that the template needs, or the template is broken,
        rejects these roles, drops or reorders messages, or does not end answers with `end_id`.
    """
    orders = list(dict.fromkeys(orders))
    pieces = _Pieces(template, end_id, tokenizer)
    source = _source(template, tokenizer, pieces)
    if template == TOKENIZERS_OWN:
        names = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        variables = {**names, "tools": None, "documents": None}
    else:
        bos = "" if tokenizer.bos_token_id is None else _BOS
        variables = {"bos": bos, "end": _END}
    try:
        texts = _rendered(source, tuple(orders), json.dumps(variables), template in TEMPLATES)
        found = {}
        for order, whole, asked in zip(orders, texts[::2], texts[1::2], strict=True):
            found[order] = _slots(order, whole, asked, pieces)
    except (RenderingError, ChatError) as error:
        raise ChatError(f"chat template {template!r}: {error}") from error
    return found


@functools.lru_cache(maxsize=256)
def _rendered(
    source: str, orders: tuple[tuple[str, ...], ...], variables: str, ours: bool
) -> list[str]:
    """Renders, for each order, the whole conversation and the prompt without the last answer."""
    requests = []
    for order in orders:
        messages = [
            {"role": role, "content": f"{_LEFT}MESSAGE{i}TEXT{_RIGHT}"}
            for i, role in enumerate(order)
        ]
        for shown, prompt in ((messages, False), (messages[:-1], True)):
            request = {"messages": shown, "add_generation_prompt": prompt}
            requests.append({**json.loads(variables), **request})
    return render(source, requests) if ours else render_apart(source, requests)


class _Pieces:
    """Cuts a template's output into texts and token ids."""

    def __init__(self, template: str, end_id: int, tokenizer: PreTrainedTokenizerFast):
        self.end_id = end_id
        added = tokenizer.added_tokens_decoder
        self.tokens = {token.content: (i, token) for i, token in added.items()}
        foreign = template == TOKENIZERS_OWN
        self._own = {} if foreign else {_BOS: tokenizer.bos_token_id, _END: end_id}
        names = sorted((*self.tokens, *self._own), key=len, reverse=True)
        self._cut = re.compile("|".join(map(re.escape, names)) or "(?!)")

    def of(self, text: str) -> list[str | int]:
        """Returns non-empty texts and ids; tokens with lstrip or rstrip absorb adjacent spaces."""
        parts, start = [], 0
        for found in self._cut.finditer(text):
            before = text[start : found.start()]
            start, name = found.end(), found.group()
            if name in self._own:
                parts += [before, self._own[name]]
                continue
            i, token = self.tokens[name]
            parts += [before.rstrip() if token.lstrip else before, i]
            if token.rstrip:
                start = len(text) - len(text[start:].lstrip())
        parts.append(text[start:])
        return [part for part in parts if part != ""]


def _source(template: str, tokenizer: PreTrainedTokenizerFast, pieces: _Pieces) -> str:
    for token in _NEEDED.get(template, ()):
        if token not in pieces.tokens:
            raise ChatError(
                f"chat template {template!r}: the tokenizer has no token {token}; use another "
                "template or a tokenizer that has it"
            )
    if template in TEMPLATES:
        return TEMPLATES[template]
    source = tokenizer.chat_template
    if isinstance(source, dict):  # some tokenizers have several named templates
        source = source.get("default")
    if not source:
        raise ChatError(
            f"chat template {template!r}: the tokenizer has none of its own; use one of "
            f"{', '.join(TEMPLATES)}"
        )
    return source


def _slots(order: Sequence[str], whole: str, asked: str, pieces: _Pieces) -> tuple[Slot, ...]:
    between, strips = _cut(order, whole)
    prompt = _cut(order[:-1], asked)[0][-1]  # text before an answer to be generated
    # Both the last answer's `before` and the prompt start where the question ends.
    if not between[-2].startswith(prompt):
        raise ChatError(
            f"asks for an answer with {prompt!r}, but writes {between[-2]!r} before an existing "
            "answer; fix it, so that training and inference use the same prompt"
        )
    lead = between[-2].removeprefix(prompt)
    lead = "" if lead.strip() else lead  # a header missing in the prompt belongs to `before`
    slots = []
    rest: list[str | int] = pieces.of(between[0])
    for i, role in enumerate(order):
        slot = Slot(tuple(rest), strips[i])
        rest = pieces.of(between[i + 1])
        if role == "assistant":
            tail, rest = _tail(rest, pieces.end_id)
            slot = _answer(slot, lead, tail)
        slots.append(slot)
    return tuple(slots)


def _answer(slot: Slot, lead: str, tail: str) -> Slot:
    before = list(slot.before)
    if lead and before and isinstance(before[-1], str) and before[-1].endswith(lead):
        before[-1] = before[-1].removesuffix(lead)
    else:
        lead = ""
    continues = bool(before) and isinstance(before[-1], str)
    before = tuple(part for part in before if part != "")
    return dataclasses.replace(slot, before=before, lead=lead, tail=tail, continues=continues)


def _cut(order: Sequence[str], text: str) -> tuple[list[str], list[tuple[bool, bool]]]:
    """Returns the text before, between and after the messages, and whether each is stripped."""
    marks = list(_MARK.finditer(text))
    found = [int(mark[2]) for mark in marks]
    if found != list(range(len(order))):
        for i, role in enumerate(order):
            if found.count(i) != 1:
                what = "drops" if i not in found else "repeats"
                raise ChatError(
                    f"{what} message {i + 1} of {len(order)} ({role}); use another template"
                )
        raise ChatError(f"reorders the {len(order)} messages; use another template")
    starts = [0, *(mark.end() for mark in marks)]
    stops = [*(mark.start() for mark in marks), len(text)]
    between = [text[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return between, [(not mark[1], not mark[3]) for mark in marks]


def _tail(behind: list[str | int], end_id: int) -> tuple[str, list[str | int]]:
    """Returns the template's text between an answer and its end token, and all parts after it."""
    ids = [i for i, part in enumerate(behind) if not isinstance(part, str)]
    if not ids or behind[ids[0]] != end_id:
        has = f"token {behind[ids[0]]}" if ids else "no token"
        raise ChatError(
            f"ends an answer with {has}, not with token {end_id}, the tokenizer's eos_token, at "
            "which the model stops; set eos_token in tokenizer_config.json to the token that the "
            "template writes, or use another template"
        )
    return "".join(behind[: ids[0]]), behind[ids[0] + 1 :]

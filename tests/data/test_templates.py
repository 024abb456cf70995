"""The slots of messages in a template, and unusable templates."""

import pytest
from chat_tokenizers import chatty, plain
from tokenizers import AddedToken

from slava_jax.data.chat import ChatError
from slava_jax.data.templates import TEMPLATES, TOKENIZERS_OWN, layouts

ORDER = ("system", "user", "assistant", "user", "assistant")
LOOP = "{% for m in messages %}<|im_start|>[TEXT]<|im_end|>{% endfor %}"
CONTENT = "{{ m.role + ' ' + m.content }}"


def owned(template):
    tokenizer = chatty.__wrapped__()
    tokenizer.chat_template = template
    return tokenizer


def slots_of(template, order=ORDER):
    tokenizer = owned(template)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return layouts(TOKENIZERS_OWN, [order], end, tokenizer)[order]


def test_slots_of_a_tokenizers_template():
    start = chatty().convert_tokens_to_ids("<|im_start|>")
    end = chatty().convert_tokens_to_ids("<|im_end|>")
    slots = slots_of(LOOP.replace("[TEXT]", CONTENT))
    assert [slot.before for slot in slots] == [
        (start, "system "), (end, start, "user "), (end, start, "assistant "),
        (start, "user "), (end, start, "assistant "),
    ]  # fmt: skip
    # without a generation prompt, the header is not part of the answer
    assert {(s.lead, s.tail, s.strips) for s in slots} == {("", "", (False, False))}
    assert [s.continues for s in slots] == [False, False, True, False, True]


def test_what_a_template_strips_and_adds_is_detected():
    slots = slots_of(
        "{% for m in messages %}{{ m.role ~ ':' }}"
        "{% if m.role == 'assistant' %}{{ ' ' ~ (m.content | trim) ~ ' .<|im_end|>' }}"
        "{% else %}{{ m.content.lstrip() }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    assert [slot.strips for slot in slots] == [
        (True, False), (True, False), (True, True), (True, False), (True, True),
    ]  # fmt: skip
    assert (slots[2].before, slots[2].lead, slots[2].tail) == (("assistant:",), " ", " .")
    assert (slots[4].before, slots[4].lead, slots[4].tail) == (("assistant:",), " ", " .")


def test_a_token_absorbs_adjacent_spaces():
    tokenizer = owned("{% for m in messages %}{{ 'a <|x|> b ' + m.content }}</s>{% endfor %}")
    tokenizer.add_tokens([AddedToken("<|x|>", lstrip=True, rstrip=True, special=True)])
    x = tokenizer.convert_tokens_to_ids("<|x|>")
    order = ("user", "assistant")
    slots = layouts(TOKENIZERS_OWN, [order], tokenizer.eos_token_id, tokenizer)[order]
    assert slots[0].before == ("a", x, "b ")
    theirs = tokenizer("a <|x|> b ", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(theirs) == ["a", "<|x|>", "b", "Ġ"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_our_templates_work_without_the_tokenizers_own(template):
    tokenizer = chatty()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    orders = [ORDER, ORDER[1:], ORDER[1:3]]
    found = layouts(template, [*orders, ORDER], end, tokenizer)
    assert list(found) == orders
    for order, slots in found.items():
        assert len(slots) == len(order)


REFUSED = [
    ("[TEXT]", "drops message 1 of 5 (system)"),
    ("{% if m.role != 'system' %}[TEXT]{% endif %}", "drops message 1 of 5 (system)"),
    ("[TEXT][TEXT]", "repeats message 1"),
    ("{{ m.content | upper | reverse }}", "drops message 1"),
    ("{% for part in m.content %}{{ part.text }}{% endfor %}", "drops message 1"),
    ("{{ raise_exception('Only users and assistants') }}", "Only users and assistants"),
    ("{{ m.content", "TemplateSyntaxError"),
    ("{{ ''.__class__.__mro__ }}", "is unsafe"),
]


@pytest.mark.parametrize(("body", "said"), REFUSED)
def test_a_template_that_cannot_be_used_is_named(body, said):
    inner = body if body == "[TEXT]" else body.replace("[TEXT]", CONTENT)
    with pytest.raises(ChatError) as caught:
        slots_of(LOOP.replace("[TEXT]", inner))
    assert str(caught.value).startswith("chat template 'tokenizer': ")
    assert said in str(caught.value)


def test_a_template_that_changes_the_order():
    with pytest.raises(ChatError, match="reorders the 5 messages"):
        slots_of("{% for m in messages | reverse %}{{ m.content }}<|im_end|>{% endfor %}")


def test_an_answer_must_follow_the_generation_prompt():
    with pytest.raises(ChatError, match=r"asks for an answer with '.*<think>'"):
        slots_of(
            LOOP.replace("[TEXT]", CONTENT)
            + "{% if add_generation_prompt %}<|im_start|>assistant <think>{% endif %}"
        )


def test_the_end_must_be_the_templates_own():
    for body, said in (("</s>", "token 3"), ("", "no token")):
        with pytest.raises(ChatError, match=f"ends an answer with {said}, not with token"):
            slots_of("{% for m in messages %}{{ m.content }}" + body + "{% endfor %}")
    tokenizer = chatty()
    with pytest.raises(ChatError, match="'chatml': ends an answer with token"):
        layouts("chatml", [ORDER], tokenizer.eos_token_id, tokenizer)


def test_tokenizers_that_lack_tokens_or_a_template():
    with pytest.raises(ChatError, match=r"the tokenizer has no token <\|im_start\|>"):
        layouts("chatml", [ORDER], 3, plain())
    with pytest.raises(ChatError, match="'tokenizer': the tokenizer has none of its own; use one"):
        layouts(TOKENIZERS_OWN, [ORDER], 3, plain())


def test_the_default_template_is_used_if_there_are_several():
    template = LOOP.replace("[TEXT]", CONTENT)
    assert slots_of({"default": template, "tool_use": "x"}) == slots_of(template)


def test_a_tokenizer_without_bos_gets_none():
    tokenizer = chatty.__wrapped__()
    tokenizer.bos_token = None
    for template in ("plain", "vicuna_v1", "llama2"):
        slots = layouts(template, [ORDER], 3, tokenizer)[ORDER]
        assert all(isinstance(part, str) for part in slots[0].before)

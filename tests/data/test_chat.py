"""Tokenising conversations: positions of images and answers; text never becomes special tokens."""

import os

import numpy as np
import pytest
from chat_tokenizers import chatty, plain, sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from slava_jax.data.chat import (
    ChatError,
    Message,
    TextForm,
    conversation_of,
    encode_examples,
    encode_prompt,
    user_text,
)
from slava_jax.data.instructions import Instruction
from slava_jax.data.tokenizer import encode_texts, load_tokenizer

SMOLLM2 = "weights/smollm2/tokenizer"
TOKENIZERS = {"bytes": plain, "chatty": chatty, "sentencepiece": sentencepiece}
KINDS = [
    ("plain", "bytes"), ("plain", "chatty"), ("chatml", "chatty"), ("tokenizer", "chatty"),
    ("vicuna_v1", "bytes"), ("llama2", "bytes"), ("vicuna_v1", "sentencepiece"),
]  # fmt: skip
AWKWARD = ["</s>", "<s>", "<|im_end|>", "<|im_start|>system\n", "<tool>", "<pad>", " \n", "▁", "µ"]


def form_of(template, tokenizer, image_tokens=1):
    end = "<|im_end|>" if template in ("chatml", "tokenizer") else "</s>"
    end_id = tokenizer.convert_tokens_to_ids(end)
    return TextForm(template, image_tokens, len(tokenizer), end_id)


def instruction(question="<image> What is it?", answer="Powder.", images=("a",), turns=(), **known):
    return Instruction(
        "q1", images, question, answer, "vqa", "short", "Powder", known, tuple(turns)
    )  # fmt: skip


def encoded(item, template="plain", tokenizer=None, image_tokens=1):
    tokenizer = tokenizer or plain()
    return encode_examples([item], tokenizer, form_of(template, tokenizer, image_tokens))[0]


def text_of(ids, tokenizer, image_tokens=1):
    """Returns the ids as text; an image is {I}."""
    ids, image = np.asarray(ids).tolist(), len(tokenizer)
    parts, run = [], []
    for i in [*ids, None]:
        if i in (image, None):
            parts.append(tokenizer.decode(run, clean_up_tokenization_spaces=False))
            run = []
        else:
            run.append(i)
    return "{I}".join(parts).replace("{I}" * image_tokens, "{I}")


texts = st.lists(
    st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    min_size=1,
    max_size=3,
).map("".join)
# No "<image>" comes of joining, and an instruction's texts are not blank.
texts = texts.filter(lambda text: text.strip() and "<image>" not in text)


@st.composite
def items(draw):
    turns = []
    for first in [True] + [False] * draw(st.integers(0, 3)):
        marks = draw(st.integers(1 if first else 0, 2))
        pieces = draw(st.lists(texts, min_size=marks + 1, max_size=marks + 1))
        turns.append(("<image>".join(pieces), draw(texts)))
    (question, answer) = turns.pop()
    marks = sum(q.count("<image>") for q, _ in turns) + question.count("<image>")
    system = draw(st.sampled_from(["", "Be brief.", "<|im_end|>"]))
    return instruction(question, answer, ("a",) * marks, turns, system=system)


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(("template", "kind"), KINDS)
@given(item=items(), image_tokens=st.integers(1, 3))
def test_the_mask_covers_the_answers_and_their_ends(template, kind, item, image_tokens):
    tokenizer = TOKENIZERS[kind]()
    form = form_of(template, tokenizer, image_tokens)
    example = encoded(item, template, tokenizer, image_tokens)
    answers = [answer for _, answer in item.turns] + [item.answer]
    assert len(example.answers) == len(answers)
    for (start, stop), answer in zip(example.answers, answers, strict=True):
        assert example.ids[stop - 1] == form.end_id
        read = tokenizer.decode(example.ids[start : stop - 1], clean_up_tokenization_spaces=False)
        blanks = {"vicuna_v1": " {}", "llama2": " {} "}.get(template, "{}").format(answer)
        if kind == "sentencepiece":  # '▁' is a space, and the first one is not shown
            blanks = blanks.removeprefix(" ").replace("▁", " ")
        assert read == blanks
    expected = np.zeros(len(example.ids), bool)
    for start, stop in example.answers:
        expected[start:stop] = True
    assert np.array_equal(example.loss_mask, expected) and example.loss_mask.dtype == bool
    assert example.answers[-1, 1] == len(example.ids)
    whole = np.concatenate([example.prompt_ids, example.answer_ids, [form.end_id]])
    assert np.array_equal(whole, example.ids)
    assert {a.dtype for a in (example.ids, example.spans, example.answers)} == {np.dtype(np.int32)}


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(("template", "kind"), KINDS)
@given(item=items(), image_tokens=st.integers(1, 3))
def test_every_image_has_its_positions(template, kind, item, image_tokens):
    tokenizer = TOKENIZERS[kind]()
    example = encoded(item, template, tokenizer, image_tokens)
    image = example.ids == len(tokenizer)
    assert len(example.spans) == len(item.images)
    assert (example.spans[:, 1] - example.spans[:, 0] == image_tokens).all()
    assert image.sum() == image_tokens * len(item.images)
    assert (np.sort(example.image_index[image]) == example.image_index[image]).all()
    assert example.image_index[image].tolist() == list(range(image.sum()))
    assert (example.image_index[~image] == -1).all()


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(("template", "kind"), KINDS)
@given(item=items())
def test_inference_and_training_use_the_same_prompt(template, kind, item):
    """In a continued conversation, the earlier tokens stay the same."""
    tokenizer = TOKENIZERS[kind]()
    form, example = form_of(template, tokenizer), encoded(item, template, tokenizer)
    messages = conversation_of(item)
    for a, stop in enumerate(range(len(messages) - 1, 0, -2)):
        shown = messages[:stop]
        marks = sum(m.text.count("<image>") for m in shown)
        if not marks:
            continue  # images would be put in front
        ids, spans = encode_prompt(shown, tokenizer, form, marks)
        assert np.array_equal(ids, example.ids[: example.answers[-1 - a, 0]])
        assert np.array_equal(spans, example.spans[:marks])
    # the ids do not depend on what else is encoded
    (one, two) = encode_examples([item, item], tokenizer, form)
    assert np.array_equal(one.ids, two.ids) and np.array_equal(one.ids, example.ids)


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(("template", "kind"), KINDS)
@given(item=items())
def test_user_text_never_becomes_special_tokens(template, kind, item):
    """The special tokens equal those of the same conversation with harmless text."""
    tokenizer = TOKENIZERS[kind]()
    marked = [("x<image>" * q.count("<image>") + "x", "x") for q in item.questions]
    system = "x" if item.metadata["system"] else ""
    harmless = instruction(marked[-1][0], "x", item.images, marked[:-1], system=system)
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]

    def found(of):
        ids = encoded(of, template, tokenizer).ids
        return ids[np.isin(ids, special)].tolist()

    assert found(item) == found(harmless)


GOLDEN = {
    # One turn is plain text; a newline between two.
    "plain": "<s>2 nm. Is {I} gold?No.</s>\nAnd {I}?Yes.</s>",
    # LLaVA: conv_vicuna_v1.get_prompt(), with </s> after the answers.
    "vicuna_v1": (
        "<s>A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: 2 nm. Is {I} "
        "gold? ASSISTANT: No.</s>USER: And {I}? ASSISTANT: Yes.</s>"
    ),
    # LLaVA: conv_llava_llama_2.get_prompt() without its system prompt, and <s> in front.
    "llama2": ("<s>[INST] 2 nm. Is {I} gold? [/INST] No. </s><s>[INST] And {I}? [/INST] Yes. </s>"),
    "chatml": (
        "<|im_start|>user\n2 nm. Is {I} gold?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n"
        "<|im_start|>user\nAnd {I}?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
    ),
    "tokenizer": (
        "<|im_start|>system\nBe helpful.<|im_end|>\n"
        "<|im_start|>user\n2 nm. Is {I} gold?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n"
        "<|im_start|>user\nAnd {I}?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
    ),
}
SYSTEM = {
    "plain": "<s>Be brief.\n2 nm. Is {I} gold?",
    "vicuna_v1": "<s>Be brief. USER: 2 nm. Is {I} gold? ASSISTANT:",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n2 nm. Is {I} gold? [/INST]",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 nm. Is {I} gold?"
    "<|im_end|>\n<|im_start|>assistant\n",
}
SYSTEM["tokenizer"] = SYSTEM["chatml"]


@pytest.mark.parametrize("template", GOLDEN)
def test_the_text_of_a_template(template):
    tokenizer = chatty()
    item = instruction(
        "And <image>?", "Yes.", ("a", "b"), [("Is <image> gold?", "No.")], supplement="2 nm."
    )
    example = encoded(item, template, tokenizer, image_tokens=4)
    assert text_of(example.ids, tokenizer, 4) == GOLDEN[template]
    messages = [Message("system", "Be brief."), Message("user", "2 nm. Is <image> gold?")]
    ids, _ = encode_prompt(messages, tokenizer, form_of(template, tokenizer), 1)
    assert text_of(ids, tokenizer) == SYSTEM[template]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_plain_turn_is_tokenised_piece_by_piece(kind):
    """bos, the pieces between images, the answer and the end; each text is tokenised separately."""
    tokenizer = TOKENIZERS[kind]()
    first, second, answer = encode_texts(tokenizer, ["2 nm. Is ", " finer than", "No."])
    image, third = len(tokenizer), encode_texts(tokenizer, ["?"])[0]
    item = instruction(
        "Is <image> finer than<image>?", "No.", images=("a", "b"), supplement="2 nm."
    )
    form, example = form_of("plain", tokenizer), encoded(item, "plain", tokenizer)
    start = tokenizer.bos_token_id
    assert example.prompt_ids.tolist() == [start, *first, image, *second, image, *third]
    assert example.ids.tolist() == [*example.prompt_ids, *answer, form.end_id]
    item = instruction(supplement="2 nm.")  # no space between a supplement and an image
    assert text_of(encoded(item).ids, plain()) == "<s>2 nm.{I} What is it?Powder.</s>"


def test_a_template_without_images_is_tokenised_as_one_text():
    """As in the training of these models, the space before an answer is its first token."""
    asked = "A chat. USER: What is the mean size? ASSISTANT: The size is 120 nm."
    messages = [Message("system", "A chat."), Message("user", "What is the mean size?")]
    for tokenizer in (plain(), sentencepiece()):
        form = form_of("vicuna_v1", tokenizer)
        ids, _ = encode_prompt(messages, tokenizer, form, 0)
        (whole,) = encode_texts(tokenizer, [asked])
        assert [tokenizer.bos_token_id, *whole][: len(ids)] == ids.tolist()
        item = instruction(
            "<image>", "Yes.", turns=[("What is the mean size?", "The size is 120 nm.")],
            system="A chat.",
        )  # fmt: skip
        found = encoded(item, "vicuna_v1", tokenizer).ids[: len(whole) + 2].tolist()
        assert found == [tokenizer.bos_token_id, *whole, form.end_id]


def test_an_answer_continues_the_line_of_the_template():
    """A tokenizer that starts every text with a space adds none after the template's newline."""
    tokenizer = sentencepiece.__wrapped__()  # not cached, since it is modified
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '|' + m.role + '|\n' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    form = TextForm("tokenizer", 1, len(tokenizer), tokenizer.eos_token_id)
    (example,) = encode_examples([instruction("<image>", "size.")], tokenizer, form)
    (whole,) = encode_texts(tokenizer, ["|assistant|\nsize."])
    assert whole[-len(example.answer_ids) :] == example.answer_ids.tolist()
    assert tokenizer.convert_ids_to_tokens(example.answer_ids.tolist())[0][0] != "▁"


def test_images_without_a_mark_come_first():
    form = form_of("plain", plain())
    ids, spans = encode_prompt([Message("user", "What?")], plain(), form, 2)
    assert text_of(ids, plain()) == "<s>{I} {I} What?" and spans.tolist() == [[1, 2], [3, 4]]
    talk = [Message("user", "What?"), Message("assistant", "Tin."), Message("user", "Sure?")]
    ids, _ = encode_prompt(talk, plain(), form, 1)
    assert text_of(ids, plain()) == "<s>{I} What?Tin.</s>\nSure?"
    ids, spans = encode_prompt([Message("user", "What?")], plain(), form, 0)
    assert text_of(ids, plain()) == "<s>What?" and spans.shape == (0, 2)
    assert user_text("What?", "2 nm.", 2) == "2 nm.<image> <image> What?"
    assert user_text("A <image>?", "2 nm.", 1) == "2 nm. A <image>?"
    assert user_text("", "2 nm.") == "2 nm."


def test_a_question_without_a_mark_is_asked_as_it_was_trained():
    (example,) = encode_examples(
        [instruction("<image> What is it?", "Tin.")], plain(), form_of("plain", plain())
    )
    asked = [Message("user", user_text("What is it?", "", 1))]
    ids, _ = encode_prompt(asked, plain(), form_of("plain", plain()), 1)
    assert ids.tolist() == example.prompt_ids.tolist()


def test_a_model_that_inserts_embeddings_guards_no_id():
    """Id 0 may be an exclamation mark, as in Qwen's vocabulary; padding stands for the image."""
    tokenizer = plain()
    (mark,) = encode_texts(tokenizer, ["!"])[0]
    item = instruction("<image> Look!", "A wire!")
    with pytest.raises(ChatError, match="special token"):
        encode_examples([item], tokenizer, TextForm("plain", 2, mark, 3))
    (example,) = encode_examples([item], tokenizer, TextForm("plain", 2, None, 3))
    assert (example.ids[example.spans[0, 0] : example.spans[0, 1]] == 0).all()
    assert (example.ids == mark).sum() == 2


def test_marks_that_do_not_match_the_images():
    item = instruction()
    object.__setattr__(item, "images", ("a", "b"))
    with pytest.raises(ChatError, match=r"'q1': 1 <image> in the question for 2"):
        encoded(item)
    form = form_of("plain", plain())
    with pytest.raises(ChatError, match="2 <image> in the question for 1"):
        encode_prompt([Message("user", "<image> or <image>?")], plain(), form, 1)
    with pytest.raises(ChatError, match=r"'q1'.*supplement"):
        encoded(instruction(supplement="<image>"))
    for broken in (
        instruction(answer="an <image>"),
        instruction(turns=[("Hi?", "<image>")]),
        instruction(system="<image>"),
    ):
        with pytest.raises(ChatError, match=r"'q1': <image> in a message of role"):
            encoded(broken)


def test_an_answer_without_a_token_is_refused():
    tokenizer = sentencepiece()
    item = instruction()
    object.__setattr__(item, "answer", "")
    with pytest.raises(ChatError, match=r"'q1': the answer has no tokens"):
        encoded(item, "plain", tokenizer)


@pytest.mark.parametrize("order", ["", "a", "ua", "uu", "su a u", "sua", "usu", "ss", "s"])
def test_messages_in_another_order(order):
    roles = {"u": "user", "a": "assistant", "s": "system"}
    messages = [Message(roles[c], "x") for c in order.replace(" ", "")]
    if order == "su a u":
        encode_prompt(messages, plain(), form_of("plain", plain()), 0)
        return
    with pytest.raises(ChatError, match="user and assistant in turn"):
        encode_prompt(messages, plain(), form_of("plain", plain()), 0)


def test_unknown_forms_and_roles():
    with pytest.raises(ChatError, match="one of plain, vicuna_v1, llama2, chatml, tokenizer"):
        TextForm("alpaca", 1, 0, 0)
    with pytest.raises(ChatError, match="image_tokens"):
        TextForm("plain", 0, 0, 0)
    with pytest.raises(ChatError, match="role must be one of system, user, assistant, is 'tool'"):
        Message("tool", "x")


def test_a_guarded_token_in_plain_text_is_cut():
    """Tokenizers find non-special added tokens in any text; the end token must not be found."""
    tokenizer = chatty()
    tool = tokenizer.convert_tokens_to_ids("<tool>")
    assert tool in encode_texts(tokenizer, ["a <tool> b"])[0]
    form = TextForm("plain", 1, len(tokenizer), tool)
    (example,) = encode_examples([instruction(answer="a <tool> b")], tokenizer, form)
    assert example.ids.tolist().count(tool) == 1
    assert tokenizer.decode(example.answer_ids) == "a <tool> b"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir(SMOLLM2), reason="needs the tokenizer of SmolLM2")
@pytest.mark.parametrize("text", ["What is it?", "\n Is it  gold?\n", "µ ü 日本"])
def test_smollm2_prompts_equal_those_of_transformers(text):
    tokenizer = load_tokenizer(SMOLLM2)
    form = TextForm("tokenizer", 1, len(tokenizer), tokenizer.eos_token_id)
    messages = [("system", "Be brief."), ("user", text), ("assistant", "Gold."), ("user", "Sure?")]
    ids, _ = encode_prompt([Message(*m) for m in messages], tokenizer, form, 0)
    theirs = tokenizer.apply_chat_template(
        [{"role": role, "content": said} for role, said in messages],
        add_generation_prompt=True, tokenize=False,
    )  # fmt: skip
    split = tokenizer(theirs, add_special_tokens=False, split_special_tokens=False)
    assert ids.tolist() == split["input_ids"]

"""Valid answers, and the reasons for rejecting others."""

import json
import time

import pytest

from slava_jax.teacher.journal import Reply
from slava_jax.teacher.prompt_sets import Item, Question
from slava_jax.teacher.replies import is_directional, is_english, read_replies

FIXED = Item(Question("size", "sizes", ("How large are they?",)), "How large are they?")
FREE = Item(Question("finding", "a finding"), "")
GOOD = {"short": "They are small.", "detailed": "They are small. The largest has 40 nm."}


def read(text, *, items=(FIXED,), finish="stop", refusal="", longest=1000):
    return read_replies([Reply(text, finish, refusal)], items, longest)


def reasons(text, **own) -> set[tuple[str, str]]:
    good, bad = read(text, **own)
    assert not good
    return {(problem.status, problem.reason) for problem in bad.values()}


@pytest.mark.parametrize(
    "form",
    [
        "@", "```json\n@\n```", "Here you are:\n@\nAnything else?", "@\nI left out {nothing}.",
        "```\n@\n```\n```json\n{\"other\": 1}\n```", "{A set} and {\"a\", 1}: @", "[@]",
        '{"answers": @}', '{"note: the form is @', '{"size": {"short": "Draft."}}\n@', "@ @",
        '{"size": "see below"} @', "<think>{no}</think> <think>{@}</think>@", "<think>@</think>",
        '{"n": 1e999999, "m": ' + "9" * 5000 + "} @", '{"bad": "\\mu", @',
    ],
)  # fmt: skip
def test_both_answers_are_read(form):
    good, bad = read(form.replace("@", json.dumps({"size": GOOD})))
    assert not bad
    assert good["size", "short"].text == "They are small."
    assert good["size", "detailed"].question == "How large are they?"


@pytest.mark.parametrize(("written", "said"), [("\n", " "), ("\t", " "), ("\\mu ", "\\mu ")])
def test_what_json_does_not_allow_within_a_text_is_read(written, said):
    good, bad = read(json.dumps({"size": GOOD}).replace(". ", f".{written}"))
    assert not bad
    assert good["size", "detailed"].text == f"They are small.{said}The largest has 40 nm."


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_the_whole_entries_of_an_answer_that_was_cut_off_are_read(finish):
    text = json.dumps({"size": GOOD, "finding": {"question": "What?", **GOOD}})
    good, bad = read(text[:-40], items=(FIXED, FREE), finish=finish)
    assert {name for name, _ in good} == {"size"}
    reason = "missing" if finish == "stop" else "cut off: raise max_tokens"
    assert all(problem.reason.startswith(reason) for problem in bad.values()) and len(bad) == 2
    good, bad = read(text + " and so on", items=(FIXED, FREE), finish=finish)
    assert not bad


BIG = 10**6


@pytest.mark.parametrize(
    "text",
    [" " * BIG, "\n" * BIG, "{" * BIG, '{"' * (BIG // 2), '{"a":' * (BIG // 5), '"' * BIG,
     "\\" * BIG, '{"\\' * (BIG // 3), "<think>" * (BIG // 7), "{" + " " * BIG, "-" * BIG + "sorr",
     "cannot view " + "the " * (BIG // 4), '{"a":' + "1" * BIG, '{"size":' * (BIG // 8),
     '{"a":[' * 150 + "{}," * (BIG // 3), '"size"' + " " * BIG, "</think>" * (BIG // 8)],
    ids=lambda text: repr(text[:9]),
)  # fmt: skip
def test_a_long_reply_takes_no_time(text):
    """A MB was more than 20 s for some."""
    start = time.process_time()
    assert not read(text)[0]
    assert time.process_time() - start < 3


def test_a_question_of_the_teachers_own_goes_with_its_answers():
    entry = {"question": " What is\n cracked? ", **GOOD}
    good, bad = read(json.dumps({"finding": entry, "size": GOOD}), items=(FREE, FIXED))
    assert good["finding", "short"].question == "What is cracked?"
    assert len(good) == 4 and not bad
    assert reasons(json.dumps({"finding": GOOD}), items=(FREE,)) == {
        ("malformed", "question: missing")
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ("malformed", "empty")),
        ("They are small.", ("malformed", "not the requested JSON object")),
        ('{"size": {"short": "They', ("malformed", "not the requested JSON object")),
        ("{" * 10_000 + "}", ("malformed", "not the requested JSON object")),
        ("I’m sorry, but I can’t help with that.", ("refused", "says so")),
        ("I cannot view the image you sent.", ("refused", "says so")),
        ('{"sizes": {}}', ("malformed", "missing")),
        ('{"size": "They are small."}', ("malformed", "missing")),
        ('{"size": {}}', ("malformed", "answer: missing")),
        ('{"size": {"short": ["a"], "detailed": 3}}', ("malformed", "answer: not a text")),
        ('{"size": {"short": " ", "detailed": "..."}}', ("malformed", "answer: empty")),
    ],
)
def test_a_reply_without_answers(text, problem):
    assert reasons(text) == {problem}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("word " * 10_000, ("malformed", "answer: 50000 characters, more than 1000")),
        (
            "The <image> shows wires.",
            ("malformed", "answer: contains <image> or an unpaired surrogate"),
        ),
        ("Wires of \ud800 nm.", ("malformed", "answer: contains <image> or an unpaired surrogate")),
        ("I'm unable to tell.", ("refused", "answer: says so")),
        ("This cannot be said without visual access to the image.", ("refused", "answer: says so")),
        ("I cannot analyze the provided image.", ("refused", "answer: says so")),
        ("表面很光滑，没有缺陷。", ("malformed", "answer: in another language")),
        ("Поверхность гладкая.", ("malformed", "answer: in another language")),
        ("Die Fläche ist rau und nicht eben.", ("malformed", "answer: in another language")),
    ],
)
def test_one_bad_answer_leaves_the_other(answer, problem):
    good, bad = read(json.dumps({"size": {**GOOD, "detailed": answer}}))
    assert [slot[1] for slot in good] == ["short"]
    assert {(p.status, p.reason) for p in bad.values()} == {problem}


def test_questions_of_the_users_own_are_in_what_words_they_like():
    text = "Wie groß sind die Drähte, und sind sie von einer Art?"
    item = Item(Question("size", "sizes", (text,)), text)
    good, bad = read(json.dumps({"size": GOOD}), items=(item,), longest=45)
    assert not bad and good["size", "short"].question == text
    problem = ("malformed", "question: in another language")
    assert reasons(json.dumps({"finding": {**GOOD, "question": text}}), items=(FREE,)) == {problem}


def test_what_the_server_says_of_the_end_counts():
    whole = json.dumps({"size": GOOD})
    assert reasons(whole, finish="content_filter") == {("refused", "content filter")}
    assert reasons(whole, refusal="not that") == {("refused", "not that")}
    (problem,) = reasons('{"size": {"short": "They are sm', finish="length")
    assert problem[0] == "malformed" and "max_tokens" in problem[1]


def test_a_later_reply_fills_in_what_lacks_and_changes_nothing():
    first = json.dumps({"size": {"short": "First.", "detailed": ""}})
    second = json.dumps({"size": {"short": "Second.", "detailed": "Second."}})
    replies = [Reply(first, "stop"), Reply("", "stop"), Reply(second, "stop")]
    good, bad = read_replies(replies, (FIXED,), 100)
    assert [answer.text for answer in good.values()] == ["First.", "Second."]
    assert not bad


@pytest.mark.parametrize(
    "text",
    [
        "Smooth wires, no visible defects.",
        "Die attach voids.",  # a die is a chip
        "Single-crystal ZnO nanorods (c-axis), about 2 µm × 80 nm, α-Fe₂O₃ beside them.",
        "The scale cannot be determined from the image.",
        "Schottky diodes and Müller cells are visible in the upper half.",
        "SnO₂, 5 kV, 25 000×",
        "En face view of the la Rochelle sample.",
        "Dendrites",
        "Lamellae",
        "ZnO tetrapods",
    ],
)
def test_english_passes(text):
    assert is_english(text)
    good, _ = read(json.dumps({"size": {"short": text, "detailed": text}}))
    assert len(good) == 2


@pytest.mark.parametrize(
    "text",
    [
        "Das Bild zeigt Nanodrähte mit einer glatten Oberfläche und ohne Fehler.",
        "L'image montre des nanofils avec une surface lisse et sans défauts.",
        "La imagen muestra los nanohilos con una superficie lisa y sin defectos.",
        "L'immagine mostra i nanofili della superficie, che sono lisci.",
        "A imagem mostra os nanofios com uma superfície lisa e não há defeitos.",
        "Het beeld toont een oppervlak van draden zonder gebreken.",
        "Bilden visar släta trådar som ligger tätt.",
        "Obraz pokazuje gładkie druty leżące blisko siebie.",
        "Görüntü birbirine yakın duran düz telleri gösteriyor.",
        "Gambar menunjukkan kawat halus yang berdekatan.",
        "Glatte Drähte, keine Fehler.",
        "ワイヤーの表面は滑らかです。",
        "أسلاك ناعمة",
        "Ομαλή επιφάνεια",
    ],
)
def test_other_languages_do_not(text):
    assert not is_english(text)


@pytest.mark.parametrize("form", ["<think>Is {it} small?</think>{}", "hm {0}\n</think>\n{}"])
def test_what_a_model_thinks_before_is_left_out(form):
    good, bad = read(form.replace("{}", json.dumps({"size": GOOD})))
    assert len(good) == 2 and not bad


@pytest.mark.parametrize("text", ["No image was provided.", "I do not see any image here."])
def test_an_image_that_did_not_arrive_is_a_refusal(text):
    entry = {"size": {"short": text, "detailed": text}}
    assert reasons(json.dumps(entry)) == {("refused", "answer: says so")}


def test_directions_are_seen():
    assert is_directional("A scratch runs from top to bottom.")
    assert is_directional("The horizontal lines are darker.")
    assert not is_directional("The uppercase label names copper, the topology is flat.")

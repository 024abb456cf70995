import dataclasses
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from random_records import DEFECTS, FEATURES, SHAPES, truths

from slava_jax.data.instructions import claims_hold, read_jsonl, shown_false, write_jsonl
from slava_jax.synthetic.groups import GROUPS
from slava_jax.synthetic.phrases import APPLICATIONS, FUNCTIONS, MATERIALS
from slava_jax.synthetic.records import CATEGORIES, GroundTruth, SizeDistribution
from slava_jax.teacher.procedural import (
    class_answer,
    facts,
    instructions,
    is_true,
    supplement,
)

# Words about a fact, and the values for which they may be used. Independent of the teacher's own
# tables.
WORDS = {
    r"\blow\b": ("coverage_level", {"low"}),
    r"\bmoderate\b": ("coverage_level", {"moderate"}),
    r"\bhigh\b": ("coverage_level", {"high"}),
    r"uniform in size": ("uniformity", {"uniform"}),
    r"varied in size": ("uniformity", {"varied"}),
    r"very different sizes": ("uniformity", {"broad"}),
    r"densely packed": ("packing", {"dense"}),
    r"loosely packed": ("packing", {"loose"}),
    r"far apart": ("packing", {"sparse"}),
    r"(?<!partly )\bordered": ("order", {"ordered"}),
    r"partly ordered": ("order", {"partly ordered"}),
    r"randomly arranged": ("order", {"random"}),
    r"(?<!partly )\baligned": ("alignment", {"aligned"}),
    r"partly aligned": ("alignment", {"partly aligned"}),
    r"randomly oriented": ("alignment", {"random"}),
    r"\bhorizontal\b": ("direction", {"horizontal"}),
    r"\bvertical\b": ("direction", {"vertical"}),
    r"\brising\b": ("direction", {"rising"}),
    r"\bfalling\b": ("direction", {"falling"}),
    r"\bhomogeneous\b": ("composition", {"uniform"}),
    r"second phase|\bmixed\b": ("composition", {"bright second phase"}),
    r"\bsmooth\b": ("texture", {"smooth"}),
    r"\bgrainy\b": ("texture", {"grainy"}),
    r"\brough\b": ("texture", {"rough"}),
    r"\bisolated\b": ("aggregation", {"isolated"}),
    r"\btouch(es)?\b": ("aggregation", {"touching"}),
    r"\bclusters?\b": ("aggregation", {"clustered"}),
    r"\bcontinuous\b": ("aggregation", {"continuous"}),
    r"without visible defects|free of defects|[Nn]o (visible )?defects": ("has_defects", {False}),
    r"without visible artefacts|no artefacts": ("has_artefacts", {False}),
    r"free of charging": ("artefact_charging", {False}),
    r"(?<!free of )\bcharging\b": ("artefact_charging", {True}),
    r"\bshading\b": ("artefact_shading", {True}),
    r"\bnoise\b": ("artefact_noise", {True}),
}
# The detailed surface answer for records without defects.
GENERIC = "No defects such as cracks or scratches"


@st.composite
def pairs(draw):
    """A record and another with mostly equal fields, so that many answers fit both."""
    one, two = draw(truths()), draw(truths())
    names = [field.name for field in dataclasses.fields(GroundTruth)]
    changed = draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    return one, dataclasses.replace(one, **{name: getattr(two, name) for name in changed})


RECORD = GroundTruth(
    category="Nanowires",
    width_px=224,
    nm_per_pixel=2.0,
    magnification=50_123,
    kv=5.0,
    working_distance_mm=4.0,
    detector="SE2",
    feature="wire",
    shape="cylindrical",
    count=33,
    size_nm=SizeDistribution("diameter", 42.0, 8.0, 20.0, 60.0),
    spacing_nm=90.0,
    order="random",
    orientation_deg=30.0,
    alignment="partly aligned",
    aggregation="touching",
    texture="rough",
    coverage=0.41,
    composition="uniform",
    defects={"crack": 2, "debris": 3},
    artefacts=("charging", "noise"),
)


def near(value, said, tolerance=0.2):
    return abs(value - said) <= tolerance * said + 1e-9


def number_is_true(said, unit, before, table):
    if unit in ("nm", "µm"):
        nm = said * (1000 if unit == "µm" else 1)
        names = ("mean_size_nm", "spacing_nm", "nm_per_pixel")
        return any(near(table[name], nm) for name in names if name in table)
    if unit == "percent" and before.endswith("less than "):
        return 100 * table["coverage"] <= said + 1e-9
    if unit == "percent":
        return abs(100 * table["coverage"] - said) <= 10 + 1e-6
    if unit == "times":
        return near(table["magnification"], said, 0.15)
    # A counted quantity: the features or a kind of defect.
    names = ["count"] if unit[:3] == table["feature"][:3] else []
    names += [n for n in table if n.startswith("defect_") and unit[:3] == n[7:10]]
    exact = not before.endswith("about ")
    return any(near(table.get(n, -1), said, 0 if exact else 0.2) for n in names)


def untruths(answer, table):
    """Statements of the text that the facts do not support, from the text alone."""
    text = answer.replace(GENERIC, "No defects")
    found = []
    for pattern, (name, allowed) in WORDS.items():
        if re.search(pattern, text) and table.get(name) not in allowed:
            found.append(pattern)
    for word in SHAPES:
        if re.search(rf"\b{word}\b", text) and table["shape"] != word:
            found.append(word)
    for word in FEATURES:
        stem = word[:-1] if word == "cavity" else word
        pattern = rf"\b{stem}(s|es|ies)?\b"
        # 'A particle sample' names the class of material, regardless of the counts.
        if re.search(pattern, re.sub("|".join(MATERIALS.values()), "", text)) and (
            table["feature"] != word
        ):
            found.append(word)
    for word in DEFECTS:
        named = re.search(rf"\b{word}(s|es)?\b", text)
        if named and not table.get(f"defect_{word}", 0) > 0:
            found.append(word)
    for match in re.finditer(r"(\d[\d,]*(?:\.\d+)?) (\w+)", text):
        said = float(match[1].replace(",", ""))
        if not number_is_true(said, match[2], text[: match.start()], table):
            found.append(match[0])
    for category, phrase in MATERIALS.items():
        if phrase in text and table["category"] != category:
            found.append(phrase)
    return found


@settings(max_examples=150, deadline=None)
@given(truths(), st.integers(0, 5))
def test_all_that_is_said_is_true_of_the_record(truth, seed):
    table = facts(truth)
    for item in instructions("image", truth, seed):
        assert is_true(item, table), item
        assert not shown_false(item, table), item
        assert not untruths(item.answer, table), (item.answer, untruths(item.answer, table))


@settings(max_examples=150, deadline=None)
@given(pairs(), st.integers(0, 5))
def test_an_answer_called_true_of_another_record_is_true_of_it(pair, seed):
    truth, other = pair
    table = facts(other)
    regenerated = {item.id: item for item in instructions("image", other, seed)}
    for item in instructions("image", truth, seed):
        if is_true(item, table):
            assert not untruths(item.answer, table), (item.answer, table)
        again = regenerated[item.id]
        if (again.question, again.answer) == (item.question, item.answer):
            assert is_true(item, table) or _on_the_edge(item, table), item


def _on_the_edge(item, table):
    """The same words, with a number near the limit of 'about'."""
    broken = {n: c for n, c in item.claims.items() if not claims_hold({n: c}, table)}
    return all(isinstance(c, list) and near(table[n], sum(c) / 2, 0.25) for n, c in broken.items())


@settings(max_examples=60, deadline=None)
@given(truths(), st.integers(0, 5))
def test_breaking_any_claimed_fact_makes_the_answer_false(truth, seed):
    table = facts(truth)
    for item in instructions("image", truth, seed):
        assert item.claims
        for name, claim in item.claims.items():
            if isinstance(claim, list):
                wrong = 2 * claim[1] + 1
            elif isinstance(claim, bool):
                wrong = not claim
            else:
                wrong = claim + 1 if isinstance(claim, int) else "other"
            assert not is_true(item, {**table, name: wrong})
            assert not is_true(item, {n: v for n, v in table.items() if n != name})


@settings(max_examples=40, deadline=None)
@given(
    truths(
        words=st.text(st.characters(codec="utf-8"), max_size=8).filter(
            lambda text: text.replace("_", " ").strip()  # as it is read
        )
    )
)
def test_unknown_words_are_used_as_they_stand(truth):
    table = facts(truth)
    for item in instructions("image", truth, 0):
        if item.question_type != "class":
            assert is_true(item, table)


@settings(max_examples=60, deadline=None)
@given(truths(), st.integers(0, 9))
def test_answers_are_compact_and_questions_tell_nothing(truth, seed):
    asked = {
        question
        for group in GROUPS.values()
        for question in (*group.questions, *(ask[0] for ask in group.asks))
    }
    limits = {"short": (4, 20), "detailed": (12, 42)}
    for item in instructions("image", truth, seed):
        if item.question_type != "class":
            low, high = limits[item.style]
            assert low <= len(item.answer.split()) <= high, item.answer
        if item.task == "caption":
            assert 10 <= len(item.answer.split()) <= 32, item.answer
        question = item.question.removeprefix("<image> ").removesuffix(" Answer in detail.")
        assert item.task != "vqa" or question in asked
        assert 5 <= len(item.question.split()) <= 15
        assert not re.search(r"kV|InLens|ETD|BSE|SE2", item.question + item.answer)


def test_one_image_gets_every_type_in_both_styles():
    items = instructions("image", RECORD, 0)
    got = {(item.question_type, item.style, item.task) for item in items}
    wanted = {(name, style, "vqa") for name in GROUPS for style in ("short", "detailed")}
    wanted |= {("caption", "short", "caption"), ("caption", "detailed", "caption")}
    wanted.add(("class", "short", "classification"))
    assert got == wanted
    assert len(GROUPS) == 10
    assert len({item.id for item in items}) == len(items) == 23
    assert {item.images for item in items} == {("image",)}
    assert {item.category for item in items} == {"Nanowires"}


def test_golden_answers():
    # Checked by hand: the numbers are RECORD's.
    said = {item.id: item.answer for item in instructions("k", RECORD, 0)}
    assert said["k/class/short"] == "Nanowires"
    assert said["k/basics/short"] == "This is a nanowire sample with wires about 45 nm in diameter."
    assert said["k/size/short"] == "The image shows about 30 wires."
    assert said["k/size/detailed"] == (
        "The wires are about 45 nm in diameter. They are varied in size and randomly arranged. "
        "The distance from one to the next is about 90 nm. The wires touch each other."
    )


def test_yes_and_no_agree_with_the_facts():
    seen = set()
    for seed in range(60):
        for item in instructions("image", RECORD, seed):
            question = item.question.removeprefix("<image> ")
            if item.answer.startswith(("Yes", "No,", "In part")):
                seen.add((question, item.answer.split(",")[0]))
    assert seen == {
        ("Are the features aligned with each other?", "In part"),
        ("Are any defects or irregularities visible?", "Yes"),
        ("Is the surface of the features rough?", "Yes"),
        ("Is a bright second phase visible?", "No"),
        ("Do the features touch each other?", "Yes"),
        ("Is the coverage of the area low?", "No"),
        ("Does the image show any charging?", "Yes"),
    }


def test_a_single_feature_is_spoken_of_in_the_singular():
    truth = dataclasses.replace(RECORD, count=1, feature="tip", category="Tips")
    for seed in range(30):
        for item in instructions("image", truth, seed):
            assert not re.search(r"\btips\b|They|each other|\btip are\b", item.answer), item.answer
            assert is_true(item, facts(truth))


def test_wording_follows_the_seed_and_nothing_else():
    assert instructions("image", RECORD, 3) == instructions("image", RECORD, 3)
    worded = {
        tuple((i.question, i.answer) for i in instructions("image", RECORD, seed))
        for seed in range(8)
    }
    assert len(worded) == 8
    named = {instructions(key, RECORD, 0)[1].answer for key in "abcdefghijkl"}
    assert len(named) > 1


def test_another_scale_is_false_of_the_record_but_not_shown_by_the_picture():
    # The same image at a three times coarser scale: all lengths are tripled, the pixels agree.
    coarse = dataclasses.replace(
        RECORD,
        nm_per_pixel=6.0,
        size_nm=SizeDistribution("diameter", 126.0, 24.0, 60.0, 180.0),
        spacing_nm=270.0,
    )
    # The same wires at a third of the size.
    small = dataclasses.replace(RECORD, nm_per_pixel=6.0)
    items = {i.id: i for i in instructions("image", RECORD, 0)}
    size = items["image/size/detailed"]
    assert not is_true(size, facts(coarse))
    assert not shown_false(size, facts(coarse))
    assert is_true(size, facts(small))
    assert shown_false(size, facts(small))
    # 'About 40 nm' is false for 60 nm.
    thick = dataclasses.replace(RECORD, size_nm=SizeDistribution("diameter", 60.0, 9, 40.0, 90.0))
    assert not is_true(items["image/basics/short"], facts(thick))
    # The magnification is in the prompt, so no image contradicts it.
    caption = items["image/caption/short"]
    assert "magnified 50,000 times" in caption.answer
    faster = facts(dataclasses.replace(RECORD, magnification=9000))
    assert not is_true(caption, faster)
    assert not shown_false(caption, faster)


def test_directional_is_set_where_a_direction_is_named():
    directions = set()
    for degrees in (0.0, 45.0, 90.0, 135.0, 179.0):
        truth = dataclasses.replace(RECORD, orientation_deg=degrees)
        directions.add(facts(truth)["direction"])
        for seed in range(10):
            for item in instructions("image", truth, seed):
                named = re.search("horizontal|vertical|rising|falling", item.answer)
                assert item.metadata["directional"] == bool(named)
    assert directions == {"horizontal", "rising", "vertical", "falling"}
    unaligned = dataclasses.replace(RECORD, alignment="random")
    assert "direction" not in facts(unaligned)
    assert not any(i.metadata["directional"] for i in instructions("image", unaligned, 0))


def test_supplement_gives_the_scale_and_not_the_class():
    assert supplement(RECORD) == "Pixel size 2 nm, magnification 50,000x."
    others = {supplement(dataclasses.replace(RECORD, category=name)) for name in CATEGORIES}
    assert len(others) == 1
    assert all(i.metadata["supplement"] == supplement(RECORD) for i in instructions("k", RECORD, 0))


def test_every_category_is_known_and_readable():
    assert class_answer("MEMS_devices_and_electrodes") == "MEMS devices and electrodes"
    for table in (MATERIALS, FUNCTIONS, APPLICATIONS):
        assert set(table) == set(CATEGORIES)
    for name in CATEGORIES:
        truth = dataclasses.replace(RECORD, category=name)
        item = instructions("k", truth, 0)[0]
        assert (item.question_type, item.answer) == ("class", class_answer(name))


def test_instructions_survive_the_disk(tmp_path):
    items = instructions("image", RECORD, 0)
    write_jsonl(tmp_path / "i.jsonl", items)
    assert read_jsonl(tmp_path / "i.jsonl") == items

"""The questions about each image, and their wording."""

import base64
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from setuptools import Distribution
from teacher_jobs import CLASSES, image_set, job

from slava_jax.synthetic.groups import GROUPS
from slava_jax.teacher.plan import KINDS, chosen_rows
from slava_jax.teacher.prompt_sets import CHALLENGES, load_set
from slava_jax.teacher.settings import TeacherError
from slava_jax.teacher.taught import dry_run

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "slava_jax/teacher/prompts"
SETS = sorted(path.stem for path in PROMPTS.glob("*.toml"))


def text(request) -> str:
    return "\n".join(request.texts())


def write(path: Path, *lines) -> str:
    path.write_text("".join((l if isinstance(l, str) else json.dumps(l)) + "\n" for l in lines))  # noqa: E741
    return str(path)


@pytest.mark.parametrize("name", SETS)
def test_every_set_can_be_asked(tmp_path, name):
    prompts = load_set(name)
    assert len(prompts.questions) >= 3
    if name != CHALLENGES:
        assert prompts.about
        (request, *_) = job(tmp_path, prompts=name).plan()
        for question in prompts.questions:
            assert f'"{question.name}": {{' in text(request).splitlines()[-1]
            assert question.cover in text(request)


def test_the_ten_groups_are_those_of_the_procedural_teacher():
    names = [question.name for question in load_set("nanomaterials").questions]
    assert set(names) == {*GROUPS, "caption", "class_features"}
    assert [question.name for question in load_set(CHALLENGES).questions] == list(KINDS)


def test_the_prompts_are_installed(monkeypatch):
    monkeypatch.chdir(ROOT)
    distribution = Distribution()
    distribution.parse_config_files(["setup.cfg"])
    patterns = distribution.package_data["slava_jax.teacher"]
    installed = {path for pattern in patterns for path in PROMPTS.parent.glob(pattern)}
    assert installed >= set(PROMPTS.iterdir())


def test_a_request_tells_class_and_pixel_size_and_no_file_name(tmp_path):
    for request in job(tmp_path).plan():
        assert "Pixel size 2.5 nm." in text(request)
        assert "take no length from its pixels" in text(request)  # it shows the file resized
        assert request.pictures[0].category.replace("_", " ") in text(request)
        assert ".png" not in text(request) and "train/" not in text(request)


def test_the_pixels_go_as_png(tmp_path):
    task = job(tmp_path)
    request = task.plan()[3]
    images, text_part = request.messages()[1]["content"]
    data = images["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(data) == task.sets["train"].encoded(3)
    assert text_part["type"] == "text"
    (request, *_) = job(tmp_path, send_images=False).plan()
    assert isinstance(request.messages()[1]["content"], str)


@pytest.mark.parametrize(
    ("most", "sizes"), [(12, [12]), (6, [6, 6]), (5, [4, 4, 4]), (1, [1] * 12)]
)
def test_questions_are_spread_over_requests(tmp_path, most, sizes):
    plan = job(tmp_path, questions_per_request=most, images_per_category=1).plan()
    assert [len(request.items) for request in plan] == sizes * 3
    asked = [name for request in plan[: len(sizes)] for name in request.names]
    assert asked == [question.name for question in load_set("nanomaterials").questions]


def test_what_changes_a_request_changes_its_id_and_nothing_else_does(tmp_path):
    def ids(**changes):
        return [request.id for request in job(tmp_path, **changes).plan()]

    first = ids()
    assert len(set(first)) == 6
    same = {"request": {"max_tokens": 9}, "base_url": "http://b", "attempts": 1, "concurrency": 1}
    assert ids(**same) == first
    for change in ({"model": "other"}, {"prompts": "steel"}, {"send_images": False}):
        assert not set(ids(**change)) & set(first)
    other = job(tmp_path)
    other.sets["train"]._images[2] = other.sets["test"].encoded(0)
    changed = [request.id for request in other.plan()]
    assert [i for i in range(6) if changed[i] != first[i]] == [2]


def test_more_images_are_the_same_and_some_more():
    images = image_set("train", 6)
    few, more = (set(chosen_rows(images, n, 0)) for n in (2, 4))
    assert len(few) == 6 and len(more) == 12 and few < more
    assert chosen_rows(images, 0, 0) == list(range(18))
    assert set(chosen_rows(images, 2, 1)) != few


def test_caption_and_paragraphs_go_with_their_image(tmp_path):
    texts = {"caption": "Fig. 3: a\ntip.", "paragraphs": ["It is sharp."]}
    contexts = write(tmp_path / "c.jsonl", {"image": "train/Tips/1.png", **texts})
    plan = job(tmp_path, contexts=contexts, prompts="literature").plan()
    (told,) = [request for request in plan if "publication. What" in text(request)]
    assert told.keys == ("train/Tips/1.png",)
    assert "Caption: Fig. 3: a tip.\nParagraph that mentions it: It is sharp." in text(told)
    assert '"observation": {"question": "...", "short"' in text(told)


def test_every_image_of_a_group_has_its_own_caption(tmp_path):
    """Two panels of a figure share their caption."""
    keys = ["train/Tips/0.png", "train/Tips/1.png"]
    contexts = write(tmp_path / "c.jsonl", *[{"image": key, "caption": "Tips."} for key in keys])
    groups = write(tmp_path / "g.jsonl", {"images": keys, "kind": "intra_class"})
    told = text(job(tmp_path, contexts=contexts, groups=groups, prompts="steel").plan()[-1])
    for i in (1, 2):
        assert told.count(f"Image {i} is a figure of a publication") == 1
    assert "questions about grey images of the surface of hot-rolled steel" in told


def test_no_random_group_is_asked_about_twice(tmp_path):
    """Two images of a class have two orders."""
    plan = job(tmp_path, groups_per_category=9, images_per_group=2, images_per_category=1).plan()
    assert len({request.id for request in plan}) == len(plan)
    pairs = [request for request in plan if request.names == ["intra_class"]]
    assert len(pairs) == len(CLASSES) * 2


def test_a_group_that_comes_again_is_named(tmp_path):
    group = {"images": ["train/Tips/0.png", "train/Tips/1.png"], "kind": "intra_class"}
    path = write(tmp_path / "g.jsonl", group, {**group, "kind": "heterogeneity"}, group)
    with pytest.raises(TeacherError, match=r"g.jsonl:3: same group as in .*g.jsonl:1;"):
        job(tmp_path, groups=path).plan()


def test_random_groups(tmp_path):
    task = job(
        tmp_path, per_class=4, groups_per_category=2, images_per_group=3, images_per_category=1,
        splits=("train", "test"),
    )  # fmt: skip
    groups = [request for request in task.plan() if len(request.keys) > 1]
    assert len(groups) == 2 * len(KINDS) * len(CLASSES) * 2
    for request in groups:
        categories = [picture.category for picture in request.pictures]
        different = 3 if request.names == ["inter_class"] else 1
        assert len(set(request.keys)) == 3 and len(set(categories)) == different
        assert {key.split("/")[0] for key in request.keys} == {request.split}
        assert 'Image 3 belongs to the class "' in text(request)
    content = groups[0].messages()[1]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"] * 3 + ["text"]


def test_every_image_of_a_message_is_expected_to_cost(tmp_path):
    own = {"groups_per_category": 1, "images_per_group": 2}
    plans = [job(tmp_path, image_tokens=tokens, **own).plan() for tokens in (0, 1000)]
    for free, charged in zip(*plans, strict=True):
        assert charged.guess - free.guess == 1000 * len(charged.keys)
    assert {len(request.keys) for request in plans[0]} == {1, 2}


def test_given_groups(tmp_path):
    keys = ["train/Tips/0.png", "train/Fibres/1.png", "test/Fibres/0.png"]
    path = write(tmp_path / "g.jsonl", {"images": keys, "kind": "inter_class", "scores": [1]}, "")
    task = job(tmp_path, groups=path, groups_per_category=5, splits=("train", "test"))
    (group,) = [request for request in task.plan() if len(request.keys) > 1]
    assert group.split == "test" and list(group.keys) == keys


def test_of_given_groups_so_many_of_a_kind_and_category_are_taken(tmp_path):
    pairs = [(f"train/{c}/{i}.png", f"train/{c}/{j}.png") for c in ("Tips", "Fibres")
             for i, j in ((0, 1), (1, 0), (2, 0))]  # fmt: skip
    lines = [{"images": pair, "kind": "intra_class"} for pair in pairs]
    path = write(tmp_path / "g.jsonl", *lines)

    def taken(most):
        task = job(tmp_path, per_class=3, groups=path, groups_per_category=most)
        return [request.keys for request in task.plan() if len(request.keys) > 1]

    assert taken(0) == taken(3) == pairs
    some = taken(2)
    assert [key for key in pairs if key in some] == some
    assert Counter(keys[0].split("/")[1] for keys in some) == {"Tips": 2, "Fibres": 2}
    assert set(taken(1)) < set(some)


@pytest.mark.parametrize(
    ("setting", "line", "said"),
    [
        ("groups", {"images": ["test/Tips/0.png", "train/Tips/0.png"], "kind": "intra_class"},
         "must be from train or from the split of the last one"),
        ("groups", {"images": ["train/Tips/0.png"], "kind": "intra_class"}, "2 or more"),
        ("groups", {"images": ["train/Tips/0.png", "no.png"], "kind": "intra_class"}, "'no.png'"),
        ("groups", {"images": ["train/Tips/0.png", ["a"]], "kind": "intra_class"},
         "not in the data set"),
        ("groups", {"images": ["train/Tips/0.png", "train/Tips/1.png"], "kind": "x"}, "kind: "),
        ("groups", {"images": ["train/Tips/0.png"] * 2, "kind": "intra_class"}, "different keys"),
        ("contexts", {"image": "train/Tips/0.png", "caption": "a \ud800"}, "lone surrogate"),
        ("contexts", {"image": "no.png"}, "image: must be the key"),
        ("contexts", {"image": ["a"]}, "image: must be the key"),
        ("contexts", {"image": "train/Tips/0.png", "caption": 3}, "caption: must be"),
        ("contexts", {"image": "train/Tips/0.png", "paragraphs": "one"}, "paragraphs: must be"),
        ("contexts", "{", "not JSON"),
        ("contexts", "[]", "must be a JSON object"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, setting, line, said):
    path = write(tmp_path / "file.jsonl", "", line)
    with pytest.raises(TeacherError, match=re.escape(said)) as error:
        job(tmp_path, **{setting: path}).plan()
    assert f"{path}:2: " in str(error.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('about = "x"', "have [[question]] entries"),
        ('about = "x"\n[[question]]\nname = "a"\ncover = ""', "must be text"),
        ('about = "x"\n[[question]]\nname = "a"\ncover = "b"\nhue = 1', "hue"),
        ('about = "x"\n[[question]]\nname = "class"\ncover = "b"', "the label answers"),
        ('about = "x"\n[[question]]\nname = "a"\ncover = "b"\ntask = "t"', "task must be one of"),
        ("about = ", "not TOML"),
        ('about = 3\n[[question]]\nname = "a"\ncover = "b"', "about and class_question must be"),
        ('about = "x"\nclass_question = "<image> what?"\n[[question]]\nname = "a"\ncover = "b"',
         "about and class_question must be"),
        ('about = "x"\n[[question]]\nname = "a"\ncover = "b"\nwordings = "Size?"',
         "wordings must be a list of strings"),
        ('about = "x"\n[[question]]\nname = "a \\" b"\ncover = "b"', "only letters, digits and _"),
    ],
)  # fmt: skip
def test_bad_prompts_are_refused(tmp_path, toml, said):
    path = tmp_path / "own.toml"
    path.write_text(toml)
    with pytest.raises(TeacherError, match=re.escape(said)):
        job(tmp_path, prompts=str(path)).plan()


def test_prompts_of_ones_own(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('about = "welds"\n[[question]]\nname = "pores"\ncover = "pores of the seam"')
    (request, *_) = job(tmp_path, prompts=str(path)).plan()
    assert "questions about welds" in text(request) and "pores of the seam" in text(request)
    with pytest.raises(TeacherError, match="must be one of corrosion, literature, nanomaterials, "):
        job(tmp_path, prompts="welds").plan()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ""}, "teacher.model"),
        ({"modle": ""}, "teacher.modle: unknown"),
        ({"base_url": "http://me:secret@host/v1"}, "teacher.base_url"),
        ({"base_url": "host:8000"}, "teacher.base_url"),
        ({"base_url": "http://"}, "teacher.base_url"),
        ({"base_url": "http://[::1/v1"}, "teacher.base_url"),
        ({"base_url": "http://host:port/v1"}, "teacher.base_url"),
        ({"base_url": "http://host/v1?key=secret"}, "teacher.base_url"),
        ({"budget": {"requests": 0, "tokens": 0, "money": 0.0}}, "teacher.budget"),
        ({"budget": {"requests": 5}}, "teacher.budget.tokens: missing"),
        ({"budget": {"requests": 0, "tokens": 0, "money": 1.0}}, "teacher.prices"),
        ({"budget": {"requests": 0, "tokens": 0, "money": math.nan}}, "teacher.budget.money"),
        ({"prices": {"input": math.nan, "output": 0.0}}, "teacher.prices.input"),
        ({"backoff": math.nan}, "teacher.backoff"),
        ({"key_variable": "sk-secret"}, "teacher.key_variable: must name the environment variable"),
        ({"request": {"temperature": 0.0}}, "teacher.request"),
        ({"request": {"max_tokens": 5, "stream": True}}, "teacher.request.stream"),
        ({"concurrency": 0}, "teacher.concurrency"),
        ({"timeout": "long"}, "teacher.timeout"),
        ({"splits": ("trian",)}, "teacher.splits"),
        ({"splits": ("train", "train")}, "teacher.splits"),
    ],
)
def test_bad_settings_are_named(tmp_path, changes, said):
    with pytest.raises(TeacherError, match=re.escape(said)) as error:
        job(tmp_path, **changes).plan()
    assert "secret" not in str(error.value)


def test_the_dry_run_shows_prompts_and_the_bill(tmp_path):
    """It neither sends nor writes anything; there is no server and no key."""
    task = job(
        tmp_path, "", prices={"input": 1e6, "output": 2e6}, groups_per_category=1,
        request={"max_tokens": 1000},
    )  # fmt: skip
    said = dry_run(task)
    assert not list(tmp_path.iterdir())
    plan = task.plan()
    assert len(plan) == 6 + 3 * 3
    guess = sum(request.guess for request in plan)
    likely = 150 * (6 * 12 + 9)
    likely = min(likely, 15 * 1000)
    assert "15 requests, 0 answered" in said
    cost = f"cost {guess + 2 * likely:,.4g}"
    assert f"about 15 requests, {guess:,} + {likely:,} tokens, {cost}" in said
    assert f"at most 15 requests, {guess:,} + 15,000 tokens" in said
    for name in ("--- caption, class_features, basics", "--- intra_class", "--- heterogeneity"):
        assert name in said
    assert "size or range of sizes" in said and "[image 3: " in said
    task.settings["budget"]["requests"] = 10
    assert "would stop the run before the end: requests 10" in dry_run(task)

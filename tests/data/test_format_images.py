"""The images of other tools' records: embedded ones, paths, links, and names that escape."""

import base64

import numpy as np
import pytest
from format_records import ITEMS, KEYS, item, llava, refusal, run, talk, write_images, written
from PIL import Image

from slava_jax.data.images import encode_png, read_image
from slava_jax.data.instructions import read_jsonl, write_jsonl

PNG = base64.b64encode(encode_png(np.zeros((9, 9), np.uint8))).decode()


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def test_embedded_images_become_files(tmp_path, images, capsys):
    write_jsonl(tmp_path / "a.jsonl", ITEMS[:3])
    command = ("--from", tmp_path / "a.jsonl", "--as", "openai", "--images", images, "--embed")
    run(capsys, *command, "--to", tmp_path / "b.jsonl")
    other = tmp_path / "other"
    other.mkdir()
    back = ("--from", tmp_path / "b.jsonl", "--images", other)
    run(capsys, *back)  # check only, nothing is written
    assert not list(other.iterdir())
    run(capsys, *back, "--to", tmp_path / "c.jsonl")
    assert read_jsonl(tmp_path / "c.jsonl") == ITEMS[:3], "the keys are the saved ones"
    for key in KEYS:
        assert (other / key).read_bytes() == (images / key).read_bytes()
    (other / KEYS[1]).write_bytes(b"another")
    assert "already holds a different image" in refusal(*back, "--to", tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("conftest.py", "does not end as an image does"),
        ("labels.csv", "does not end as an image does"),
        (".git/hooks/pre-commit", "does not end as an image does"),
        (".git/a.png", "is hidden"),
        ("gold/.a.png", "is hidden"),
        ("../a.png", "is outside"),
        ("gold/../../a.png", "is outside"),
        ("gold//c.png", "is a longer name of 'gold/c.png'"),
        ("./c.png", "is a longer name of 'c.png'"),
        ("c.png/", "is a longer name of 'c.png'"),
        ("/tmp/a.png", "is outside"),
        ("gold/\x1b[2J.png", "has a control character"),
        ("out/a.png", "leads through a link out of"),
        ("out/deeper/a.png", "leads through a link out of"),
        ("gold/link.png", "leads through a link out of"),
        ("gold/broken.png", "leads through a link out of"),
    ],
)
def test_a_record_does_not_choose_which_file_is_written(tmp_path, images, key, said):
    (tmp_path / "elsewhere").mkdir()
    (images / "out").symlink_to(tmp_path / "elsewhere")
    (images / "gold/link.png").symlink_to(written(tmp_path / "elsewhere/x.json", []))
    (images / "gold/broken.png").symlink_to(tmp_path / "elsewhere/none.png")
    before = sorted(tmp_path.rglob("*"))
    record = llava(image=f"data:image/png;base64,{PNG}", slava_jax={"images": [key]})
    path = written(tmp_path / "a.json", [record])
    for to in ((), ("--to", tmp_path / "b.jsonl")):
        assert said in refusal("--from", path, "--images", images, *to)
    assert set(tmp_path.rglob("*")) == {path, *before}


def test_a_link_out_of_the_folder_is_read_but_not_exported(tmp_path, images, capsys):
    outside = tmp_path / "secret.png"
    (images / KEYS[0]).rename(outside)
    (images / KEYS[0]).symlink_to(outside)
    path = written(tmp_path / "a.json", [llava()])
    run(capsys, "--from", path, "--to", tmp_path / "b.jsonl", "--images", images)
    command = ("--from", tmp_path / "b.jsonl", "--images", images, "--as", "openai", "--embed")
    text = refusal(*command, "--to", tmp_path / "c.json")
    assert f"{KEYS[0]!r} is a link to a file outside {images}; copy the file there" in text
    (images / KEYS[0]).unlink()
    (images / KEYS[0]).write_text("PASSWORD")
    assert "cannot be decoded" in refusal(*command, "--to", tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_a_link_within_the_folder_is_exported(tmp_path, images, capsys):
    (images / "tin/again.png").symlink_to("../gold/a.png")
    write_jsonl(tmp_path / "a.jsonl", [item(images=("tin/again.png",))])
    command = ("--as", "openai", "--images", images, "--embed", "--to", tmp_path / "b.json")
    assert "1 conversations" in run(capsys, "--from", tmp_path / "a.jsonl", *command)


@pytest.mark.parametrize("stored", ["caf\xe9.png", "cafe\u0301.png"])
def test_accents_in_either_form_name_the_same_file(tmp_path, images, capsys, stored):
    (images / KEYS[0]).rename(images / "gold" / stored)
    records = [llava(image="gold/caf\xe9.png"), llava(image="gold/cafe\u0301.png")]
    path = written(tmp_path / "a.json", records)
    run(capsys, "--from", path, "--to", tmp_path / "b.jsonl", "--images", images)
    assert {i.target for i in read_jsonl(tmp_path / "b.jsonl")} == {"gold/caf\xe9.png"}


def test_embedded_images_of_other_tools(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((5, 5), 77, np.uint8)).save(picture)
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    asked = [{"type": "text", "text": "What"}, {"type": "text", "text": "is it?"}, part]
    turns = talk(("user", asked), ("assistant", "Gold."), keys=("role", "content"))
    path = written(tmp_path / "a.jsonl", [{"messages": turns}, {"messages": turns}])
    (tmp_path / "images").mkdir()
    run(capsys, "--from", path, "--to", tmp_path / "b.jsonl", "--images", tmp_path / "images")
    first, second = read_jsonl(tmp_path / "b.jsonl")
    assert (first.id, second.id) == ("a/1", "a/2")
    assert first.question == "What\nis it?\n<image>"
    assert first.images == second.images
    assert first.metadata["record"] == {"messages[0].content[2].image_url": {"detail": "low"}}
    (written_image,) = (tmp_path / "images" / "embedded").iterdir()
    assert first.target == f"embedded/{written_image.name}"
    assert (read_image(written_image, 5, 1) == 77).all()


@pytest.mark.parametrize("kind", ["below", "dots", "absolute", "file URL"])
def test_paths_of_an_image(tmp_path, images, capsys, kind, monkeypatch):
    path = {
        "below": KEYS[2],
        "dots": f"./gold/../{KEYS[2]}",
        "absolute": str(images / KEYS[2]),
        "file URL": (images / KEYS[2]).as_uri(),
    }[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(images)
    written(tmp_path / "a.json", [llava(image=path)])
    for folder in ("images", images, "link"):
        run(capsys, "--from", "a.json", "--to", "b.jsonl", "--images", folder)
        assert read_jsonl("b.jsonl")[0].images == (KEYS[2],)

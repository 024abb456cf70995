"""Descriptions from anywhere: what is wrong is named, and nothing of a wrong size is made."""

import dataclasses

import pytest

from slava_jax.facts import checked, filled, metadata, parsed, shown


@dataclasses.dataclass(frozen=True)
class Shape:
    width: int = 4
    rate: float = 0.5
    kind: str = "a"
    bias: bool = False
    mean: tuple[float, ...] = (0.5,)

    def __post_init__(self):
        if self.width < 1:
            raise ValueError("width must be 1 or more")


def test_a_whole_description_is_taken():
    settings = {"width": 3, "rate": 1, "kind": "b", "bias": True, "mean": [1, 2.5]}
    assert filled(Shape, settings) == Shape(3, 1, "b", True, (1, 2.5))
    assert filled(Shape, {}, width=7) == Shape(7)  # older folders lack newer keys


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"width": "3"}, "group.width: must be a whole number below 2.*is '3'"),
        ({"width": True}, "group.width"), ({"width": 3.0}, "group.width"),
        ({"width": 10**29}, "group.width"), ({"width": None}, "group.width"),
        ({"width": 0}, "1 or more"),
        ({"rate": float("nan")}, "group.rate: must be a number"), ({"rate": 10**400}, "group.rate"),
        ({"rate": "x" * 10_000}, "group.rate.*x{70,80}[.]{3}$"), ({"bias": 1}, "group.bias"),
        ({"kind": ["a"]}, "group.kind: must be text"), ({"mean": 0.5}, "group.mean"),
        ({"mean": [1, "2"]}, "group.mean: must be a list of numbers"),
        ({"widht": 3}, "group.'widht': unknown, known are width"),
        ([], "group: must be an object"), (None, "group: must be an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(settings, part):
    with pytest.raises(ValueError, match=part):
        filled(Shape, settings, "group")


def test_keys_are_there_and_of_their_type():
    kinds = {"name": str, "place": str | None}
    assert checked({"name": "a", "more": 1}, kinds) == {"name": "a", "place": None, "more": 1}
    for held, part in (({}, "name: is missing"), ({"name": "a", "place": 3}, "text or null, is 3")):
        with pytest.raises(ValueError, match=part):
            checked(held, kinds)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", "", "3", '{"a": ' + "9" * 5000 + "}"])
def test_what_is_no_json_object(text):
    with pytest.raises(ValueError):
        parsed(text)


@pytest.mark.parametrize(
    "arrays",
    [None, [], {"a": 1}, {"a": ["int8"]}, {"a": [1, [2]]}, {"a": ["int8", [-1]]},
     {"a": ["int8", [2**40]]}, {"a": ["int8", [True]]}, {"a": ["int8", "12"]}],
)  # fmt: skip
def test_arrays_of_a_checkpoint(arrays):
    assert metadata({"arrays": {"a": ["int8", [2]]}, "facts": '{"b": 1}'})["facts"] == {"b": 1}
    with pytest.raises(ValueError, match="arrays"):
        metadata({"arrays": arrays, "facts": "{}"})


def test_values_are_shown_in_a_line():
    assert shown("a" * 1000) == "'" + "a" * 79 + "..."

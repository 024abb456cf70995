"""Path patterns: matches, and errors for patterns without any."""

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slava_jax.errors import UserError
from slava_jax.nn.adapters import joined
from slava_jax.train.trainable import TrainableError, chosen, leaf_paths, matches, split

PARAMS = {
    "connector": {"first": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}},
    "language_model": {"blocks": {"q": {"lora_b": jnp.ones(3), "router": jnp.ones(4)}}},
    "vit": {"cls": jnp.ones(5), "blocks": {"q": {"kernel": jnp.ones(6)}}},
}


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("**", "a/b/c", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", True),
        ("a/**", "ab/c", False),
        ("**/c", "a/b/c", True),
        ("**/c", "c", True),
        ("**/b/**", "a/b/c", True),
        ("a/*/c", "a/b/c", True),
        ("a/*", "a/b/c", False),
        ("a/b*/c", "a/bb/c", True),
        ("", "a", False),
    ],
)
def test_a_pattern_matches_whole_names(pattern, path, wanted):
    assert matches(path, pattern) == wanted


def test_patterns_choose_and_take_out_in_their_order():
    """LLaVA's second stage; all but the encoder; a later pattern that adds some again."""
    adapted = ("connector/**", "**/lora_b", "**/router")
    assert chosen(PARAMS, adapted, "x") == {
        "connector/first/kernel",
        "connector/first/bias",
        "language_model/blocks/q/lora_b",
        "language_model/blocks/q/router",
    }
    rest = chosen(PARAMS, ("**", "!vit/**"), "x")
    assert rest == {path for path in leaf_paths(PARAMS) if not path.startswith("vit/")}
    assert chosen(PARAMS, ("**", "!vit/**", "vit/cls"), "x") == {*rest, "vit/cls"}


@pytest.mark.parametrize("pattern", ["conector/**", "lora_b", "!head/**"])
def test_a_pattern_that_matches_nothing_is_named_with_what_there_is(pattern):
    with pytest.raises(TrainableError) as caught:
        chosen(PARAMS, ("**", pattern), "alignment.trainable")
    text = str(caught.value)
    assert text.startswith(f"alignment.trainable: {pattern!r} matches no parameter")
    assert "connector/first" in text and "vit/cls" in text
    assert isinstance(caught.value, UserError)


def test_patterns_that_leave_nothing_are_refused():
    with pytest.raises(TrainableError, match="leave nothing to train"):
        chosen(PARAMS, ("vit/**", "!vit/**"), "assistant.trainable")
    with pytest.raises(TrainableError, match="leave nothing to train"):
        chosen(PARAMS, (), "assistant.trainable")


@given(st.sets(st.sampled_from(leaf_paths(PARAMS))))
def test_the_two_parts_make_the_whole(paths):
    """Each leaf is in one part, and joining restores the whole."""
    inside, outside = split(PARAMS, paths)
    assert set(leaf_paths(inside)) == paths
    assert set(leaf_paths(outside)) == set(leaf_paths(PARAMS)) - paths
    whole = joined(outside, inside)
    assert sorted(leaf_paths(whole)) == sorted(leaf_paths(PARAMS))
    assert whole["vit"]["cls"] is PARAMS["vit"]["cls"]

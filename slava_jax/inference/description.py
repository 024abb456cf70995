"""What a saved assistant's folder says of it, read with care: it may be damaged."""

from pathlib import Path
from typing import Any

from slava_jax.checkpoint import CheckpointError, load_facts
from slava_jax.facts import checked, parsed, shown
from slava_jax.models.interface import VisionLanguageModel
from slava_jax.models.presets import build_model, variable_shapes

# What its lengths are in (data/units.py). Assistants saved before this was stored wrote nm.
LENGTHS = "shares of the width"
_FACTS = {"config": str, "class_names": list, "base": dict}
_BASE = {"sha256": str, "name": str | None, "place": str | None}
_COPY = "restore it from a copy, or train again in a new work directory"


def read(place: Path) -> dict[str, Any]:
    """The facts in the checkpoint of an assistant's adapters; "config" is a dictionary.

    Raises:
      CheckpointError: they are damaged, or an older slava_jax wrote them.
    """
    facts = load_facts(place)
    if facts.get("lengths") != LENGTHS:
        raise CheckpointError(
            f"{place.parent}: written by an older slava_jax, whose models wrote lengths in nm; "
            "train it again in a new work directory"
        )
    try:
        checked(facts, _FACTS)
        if not all(isinstance(name, str) for name in facts["class_names"]):
            raise ValueError("class_names: must be a list of texts")
        config = checked(parsed(facts["config"]), {"data": dict}, "config")
        checked(config["data"], {"crop_bar": bool | None}, "config.data")
        return {**facts, "config": config, "base": checked(facts["base"], _BASE, "base")}
    except ValueError as error:
        raise CheckpointError(f"{place}: damaged ({error}); {_COPY}") from error


def model(place: Path, config: dict[str, Any], tokens: int) -> tuple[VisionLanguageModel, dict]:
    """The model of a stored config, and the shapes of its variables.

    Args:
      tokens: number of tokens of its tokenizer.

    Raises:
      CheckpointError: the config describes no model.
    """
    try:
        built = build_model(config, tokens)
        return built, variable_shapes(built)
    except Exception as error:  # sizes that make no model fail in many ways inside jax and flax
        raise CheckpointError(
            f"{place}: its config describes no model ({shown(error)}); {_COPY}"
        ) from error

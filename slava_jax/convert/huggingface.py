"""Folders as transformers saves them: config.json, safetensors (sharded or not), a tokenizer.

No pickle is ever opened: it can run code of whoever wrote it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from slava_jax.convert import llama, vision
from slava_jax.convert.pretrained import Source
from slava_jax.convert.rules import ConvertError
from slava_jax.convert.settings import flag, mapping, positive, whole
from slava_jax.convert.tokenizers import folder_tokenizer
from slava_jax.models.decoder import LlamaConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "F16", "BF16")


class Safetensors:
    """The tensors of a folder; see `rules.Tensors`.

    Raises:
      ConvertError: a shard or the index is missing, damaged or does not fit the other; or there
        are only pickles.
    """

    def __init__(self, folder: Path, name: str | None = None):
        """Of a folder: the file called `name`, or a whole model where it is None."""
        self.place = str(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.unreadable: dict[str, str] = {}
        self._shards: dict[str, Path] = {}  # of each tensor
        for shard, listed in ({folder / name: None} if name else _shards(folder)).items():
            self._add(shard, listed)

    def _add(self, shard: Path, listed: set[str] | None) -> None:
        try:
            with safe_open(shard, "np") as file:
                held = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                for name, tensor in held.items():
                    if tensor.get_dtype() not in _DTYPES:
                        self.unreadable[name] = (
                            f"is {tensor.get_dtype()}, not one of {', '.join(_DTYPES)}; if it was "
                            "quantised, convert what it was made from"
                        )
                    self.shapes[name] = tuple(tensor.get_shape())
                    self._shards[name] = shard
        except (SafetensorError, OSError) as error:
            raise ConvertError(f"{shard}: damaged or cut short ({error}): get it anew") from error
        if listed is not None and listed != set(held):
            raise ConvertError(
                f"{shard}: holds other tensors than {INDEX} says: "
                f"{', '.join(sorted(listed ^ set(held))[:4])}: get both anew"
            )

    def read(self, name: str) -> np.ndarray:
        """See `rules.Tensors`."""
        with safe_open(self._shards[name], "np") as file:
            return file.get_tensor(name)


def _shards(folder: Path) -> dict[Path, set[str] | None]:
    """The files to read, and what the index says is in each."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    if not (folder / INDEX).is_file():
        raise ConvertError(_no_weights(folder))
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConvertError(f"{folder / INDEX}: has no weight_map of tensors to files: get it anew")
    shards: dict[Path, set[str] | None] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ConvertError(
                f"{folder / INDEX}: weight_map: {name} is in {shard!r}, no name of a file: "
                "get it anew"
            )
        shards.setdefault(folder / shard, set()).add(name)
    absent = sorted(shard.name for shard in shards if not shard.is_file())
    if absent:
        raise ConvertError(
            f"{folder}: {INDEX} names files that are not there: {', '.join(absent)}; "
            "download them, too"
        )
    strays = sorted({p.name for p in folder.glob("model-*.safetensors")} - {p.name for p in shards})
    if strays:
        raise ConvertError(
            f"{folder}: {INDEX} does not name {', '.join(strays)}; get the index anew, or delete "
            "the files if they are of another model"
        )
    return shards


def _no_weights(folder: Path) -> str:
    kinds = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth")  # the first are surely weights
    pickles = [path for kind in kinds for path in sorted(folder.glob(kind))]
    return (
        pickle_refusal(pickles[0]) if pickles else f"{folder}: holds neither {SINGLE} nor {INDEX}"
    )


def pickle_refusal(path: Path) -> str:
    """What to do with weights that are a pickle."""
    return (
        f"{path}: a pickle, which can run code and is never opened here. Where you trust its "
        "writer, convert it with transformers and torch: "
        f"AutoModel.from_pretrained({str(path.parent)!r}).save_pretrained(DIR) writes safetensors "
        "(AutoModelForCausalLM for a language model); copy tokenizer and preprocessor files there"
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConvertError where the file is missing or no such thing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConvertError(f"{path}: is not there; download it with the weights") from error
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path}: cannot be read as JSON ({error}): get it anew") from error
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: is no JSON object: get it anew")
    return value


def read_folder(folder: Path, image_size: int | None = None) -> Source:
    """What a folder holds.

    Args:
      image_size: the side a vision encoder shall take; its own by default.

    Raises:
      ConvertError: another architecture, a setting that is not built here, missing files.
    """
    path = folder / "config.json"
    if not path.is_file() and (folder / "params.json").is_file():
        raise ConvertError(
            f"{folder}: weights as Meta gave them out, in pickles; take the Hugging Face folder of "
            "this model"
        )
    config = read_json(path)
    kind = config.get("model_type")
    if kind not in ("llama", *vision.FAMILIES):
        known = ", ".join(("llama", *vision.FAMILIES))
        raise ConvertError(f"{path}: model_type {kind!r} is not known here, only {known}")
    if config.get("quantization_config") is not None:
        raise ConvertError(f"{path}: already quantised; convert the weights it was made from")
    if kind == "llama" and image_size is not None:
        raise ConvertError(f"{path}: of a language model, which has no --image_size: leave it out")
    try:
        if kind == "llama":
            model = llama_config(config, path)
            tensors = Safetensors(folder)
            _check_head(model, tensors)
            tokenizer = folder_tokenizer(folder, model.vocab_size)
            if config.get("max_position_embeddings") is not None:
                # How long a text may be stands with the tokenizer, and leaves with it.
                tokenizer.model_max_length = whole(config, "max_position_embeddings")
            return Source(model, llama.huggingface_table(model), tensors, tokenizer)
        tensors = Safetensors(folder)
        pixels = _pixels(folder)
        model, table = vision.FAMILIES[kind](config, pixels, list(tensors.shapes), image_size)
        return Source(model, table, tensors)
    except KeyError as error:
        raise ConvertError(f"{path}: has no {error}: it is not whole") from error
    except ValueError as error:
        raise ConvertError(f"{path}: {error}") from error


def _check_head(model: LlamaConfig, tensors: Safetensors) -> None:
    """A head that is stored beside an embedding it is said to be tied to must be the same."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    if not model.tie_embeddings or not set(names) <= set(tensors.shapes):
        return
    if not np.array_equal(*map(tensors.read, names)):
        raise ConvertError(
            f"{tensors.place}: config.json ties the head to the embedding, but lm_head.weight is "
            "another: set tie_word_embeddings to false to use it, or delete the tensor"
        )


def _pixels(folder: Path) -> dict[str, Any]:
    """Settings of the image processor, which may stand among those of a whole processor."""
    whole_processor = folder / "processor_config.json"
    alone = folder / "preprocessor_config.json"
    if not alone.is_file() and whole_processor.is_file():
        settings = read_json(whole_processor)
        if "image_processor" in settings:
            return mapping(settings, "image_processor")
    return read_json(alone)


def llama_config(config: dict, path: Path) -> LlamaConfig:
    """Our config of a transformers `LlamaConfig`; defaults are transformers'.

    Raises:
      ConvertError: a setting that our Llama does not have. KeyError, ValueError: one is missing,
        or no value for it.
    """
    rope = _rope(config)
    theta = positive(rope if "rope_theta" in rope else config, "rope_theta", 10_000.0)
    refused = {
        "attention_bias": config.get("attention_bias", False),
        "mlp_bias": config.get("mlp_bias", False),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "rope type": rope_type(rope) not in ("default", "llama3"),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0,
    }
    if any(refused.values()):
        names = ", ".join(name for name, is_so in refused.items() if is_so)
        raise ConvertError(f"{path}: set in a way that this Llama does not have: {names}")
    heads, width = whole(config, "num_attention_heads"), whole(config, "hidden_size")
    # null is as good as missing for these two, as transformers writes it
    given = {name for name in ("num_key_value_heads", "head_dim") if config.get(name) is not None}
    head_width = whole(config, "head_dim") if "head_dim" in given else width // heads
    if head_width < 2 or head_width % 2:
        raise ValueError(
            f"head_dim (or hidden_size / num_attention_heads): must be even, is {head_width}"
        )
    return LlamaConfig(
        vocab_size=whole(config, "vocab_size"),
        width=width,
        layers=whole(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=whole(config, "num_key_value_heads") if "num_key_value_heads" in given else heads,
        head_width=head_width,
        mlp_width=whole(config, "intermediate_size"),
        rope_theta=theta,
        norm_eps=positive(config, "rms_norm_eps", 1e-6),
        tie_embeddings=flag(config, "tie_word_embeddings", False),
        rope_scaling=_llama3_scaling(rope) if rope_type(rope) == "llama3" else (),
    )


def _rope(config: dict) -> dict:
    """Rope parameters: `rope_parameters` as transformers writes them now, `rope_scaling` before."""
    now, before = mapping(config, "rope_parameters"), mapping(config, "rope_scaling")
    original = "original_max_position_embeddings"
    rope = {**before, **now}
    for told in (before, config):  # transformers prefers either to rope_parameters, silently
        differing = [
            k for k in (*before, original) if k in told and told[k] != rope.get(k, told[k])
        ]
        if differing:
            raise ValueError(f"{', '.join(differing)}: said twice, and differently; keep one")
    # Where nothing says it, it is the length that there is.
    for source in (config, {original: config.get("max_position_embeddings")}):
        if rope.get(original) is None and source.get(original) is not None:
            rope[original] = source[original]
    return rope


def rope_type(rope: dict) -> str:
    """Of a config's rope parameters; older files say `type`."""
    return rope.get("rope_type", rope.get("type", "default"))


def _llama3_scaling(rope: dict) -> tuple[float, ...]:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return tuple(positive(rope, name) for name in names)

"""Folders as transformers saves them: config.json, safetensors (sharded or not), a tokenizer.

No pickle is ever opened: it can run code of whoever wrote it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from slava_jax.convert import vision
from slava_jax.convert.decoders import ARCHITECTURES, decoder_config, huggingface_table
from slava_jax.convert.llava import identity_projector, llava_parts, names_of
from slava_jax.convert.pretrained import Part, Source
from slava_jax.convert.rules import ConvertError
from slava_jax.convert.settings import mapping, whole
from slava_jax.convert.tokenizers import folder_tokenizer
from slava_jax.models.decoder import DecoderConfig

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
    kind, known = config.get("model_type"), (*ARCHITECTURES, "llava", *vision.FAMILIES)
    if kind not in known:
        raise ConvertError(
            f"{path}: model_type {kind!r} is not known here, only {', '.join(known)}"
        )
    if config.get("quantization_config") is not None:
        raise ConvertError(f"{path}: already quantised; convert the weights it was made from")
    if kind in ARCHITECTURES and image_size is not None:
        raise ConvertError(f"{path}: of a language model, which has no --image_size: leave it out")
    try:
        if kind in ARCHITECTURES:
            return _language_model(folder, config)
        tensors, pixels = Safetensors(folder), _pixels(folder)
        if kind == "llava":
            return _llava(folder, config, tensors, pixels, image_size)
        model, table = vision.FAMILIES[kind](config, pixels, list(tensors.shapes), image_size)
        return Source({"vit": Part(model, table)}, tensors)
    except KeyError as error:
        raise ConvertError(f"{path}: has no {error}: it is not whole") from error
    except ValueError as error:
        raise ConvertError(f"{path}: {error}") from error


def _language_model(folder: Path, config: dict) -> Source:
    model = decoder_config(config, folder / "config.json")
    tensors = Safetensors(folder)
    _check_head(model, tensors, "model", "lm_head")
    tokenizer = _tokenizer(folder, config, model.vocab_size)
    return Source({"language_model": Part(model, huggingface_table(model))}, tensors, tokenizer)


def _llava(
    folder: Path, config: dict, tensors: Safetensors, pixels: dict, image_size: int | None
) -> Source:
    path, names = folder / "config.json", names_of(tensors.shapes)
    parts, image_token = llava_parts(config, pixels, names, image_size, path)
    model = parts["language_model"].config
    _check_head(model, tensors, names.language_model, names.head)
    second = f"{names.projector}linear_2"
    if identity_projector(config) and f"{second}.weight" in tensors.shapes:
        kernel, bias = (tensors.read(f"{second}.{name}") for name in ("weight", "bias"))
        if not np.array_equal(kernel, np.eye(len(kernel))) or bias.any():
            raise ConvertError(
                f"{folder}: projector_hidden_act is 'linear', but {second} is not the identity: "
                "two linear layers in a row are not built here"
            )
    tokenizer = _tokenizer(folder, mapping(config, "text_config"), model.vocab_size)
    return Source(parts, tensors, tokenizer, image_token)


def _tokenizer(folder: Path, config: dict, rows: int):
    """The tokenizer; how long a text may be stands with it, and leaves with it."""
    tokenizer = folder_tokenizer(folder, rows)
    if config.get("max_position_embeddings") is not None:
        tokenizer.model_max_length = whole(config, "max_position_embeddings")
    return tokenizer


def _check_head(model: DecoderConfig, tensors: Safetensors, stem: str, head: str) -> None:
    """A head that is stored beside an embedding it is said to be tied to must be the same."""
    names = (f"{head}.weight", f"{stem}.embed_tokens.weight")
    if not model.tie_embeddings or not set(names) <= set(tensors.shapes):
        return
    if not np.array_equal(*map(tensors.read, names)):
        raise ConvertError(
            f"{tensors.place}: config.json ties the head to the embedding, but {names[0]} is "
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

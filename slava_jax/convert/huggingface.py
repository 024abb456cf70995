"""Folders saved by transformers: config.json, safetensors (sharded or not), a tokenizer.

Pickles are never opened: they can run arbitrary code.
"""

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
from slava_jax.data.strict_json import parsed
from slava_jax.models.decoder import DecoderConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "F16", "BF16")


class Safetensors:
    """The tensors of a folder; see `rules.Tensors`.

    Raises:
      ConvertError: a shard or the index is missing or damaged, they disagree, or there are only
        pickles.
    """

    def __init__(self, folder: Path, name: str | None = None):
        """Reads the file `name` of a folder, or a whole model if it is None."""
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
                            f"is {tensor.get_dtype()}, not one of {', '.join(_DTYPES)}; if it is "
                            "quantised, convert the unquantised weights"
                        )
                    self.shapes[name] = tuple(tensor.get_shape())
                    self._shards[name] = shard
        except (SafetensorError, OSError) as error:
            raise ConvertError(
                f"{shard}: damaged or truncated ({error}); download it again"
            ) from error
        if listed is not None and listed != set(held):
            raise ConvertError(
                f"{shard}: its tensors do not match {INDEX}: "
                f"{', '.join(sorted(listed ^ set(held))[:4])}; download both again"
            )

    def read(self, name: str) -> np.ndarray:
        """See `rules.Tensors`."""
        with safe_open(self._shards[name], "np") as file:
            return file.get_tensor(name)


def _shards(folder: Path) -> dict[Path, set[str] | None]:
    """The files to read, and the tensors the index lists for each."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    if not (folder / INDEX).is_file():
        raise ConvertError(_no_weights(folder))
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConvertError(f"{folder / INDEX}: has no weight_map; download it again")
    shards: dict[Path, set[str] | None] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ConvertError(
                f"{folder / INDEX}: weight_map: {name} is in {shard!r}, which is not a file name; "
                "download it again"
            )
        shards.setdefault(folder / shard, set()).add(name)
    absent = sorted(shard.name for shard in shards if not shard.is_file())
    if absent:
        raise ConvertError(
            f"{folder}: {INDEX} names missing files: {', '.join(absent)}; download them, too"
        )
    strays = sorted({p.name for p in folder.glob("model-*.safetensors")} - {p.name for p in shards})
    if strays:
        raise ConvertError(
            f"{folder}: {INDEX} does not list {', '.join(strays)}; download the index again, or "
            "delete the files if they belong to another model"
        )
    return shards


def _no_weights(folder: Path) -> str:
    kinds = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth")  # the first are certainly weights
    pickles = [path for kind in kinds for path in sorted(folder.glob(kind))]
    return pickle_refusal(pickles[0]) if pickles else f"{folder}: has neither {SINGLE} nor {INDEX}"


def pickle_refusal(path: Path) -> str:
    """The error for weights in a pickle, and how to convert them."""
    return (
        f"{path}: a pickle, which can run code and is never opened here. If you trust its author, "
        "convert it with transformers and torch: "
        f"AutoModel.from_pretrained({str(path.parent)!r}).save_pretrained(DIR) writes safetensors "
        "(AutoModelForCausalLM for a language model). Copy the tokenizer and preprocessor files "
        "there, too"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises ConvertError if the file is missing or is not one."""
    try:
        value = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConvertError(f"{path}: does not exist; download it with the weights") from error
    except (OSError, ValueError) as error:
        raise ConvertError(
            f"{path}: cannot be read as JSON ({error}); download it again"
        ) from error
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: is not a JSON object; download it again")
    return value


def read_folder(folder: Path, image_size: int | None = None) -> Source:
    """Reads a model folder.

    Args:
      image_size: image side for a vision encoder; its own by default.

    Raises:
      ConvertError: an unsupported architecture or setting, or missing files.
    """
    path = folder / "config.json"
    if not path.is_file() and (folder / "params.json").is_file():
        raise ConvertError(
            f"{folder}: Meta's original weights, in pickles; use the Hugging Face folder of this "
            "model"
        )
    config = read_json(path)
    kind, known = config.get("model_type"), (*ARCHITECTURES, "llava", *vision.FAMILIES)
    if kind not in known:
        raise ConvertError(f"{path}: model_type {kind!r} is not supported, only {', '.join(known)}")
    if config.get("quantization_config") is not None:
        raise ConvertError(f"{path}: already quantised; convert the unquantised weights")
    if kind in ARCHITECTURES and image_size is not None:
        raise ConvertError(f"{path}: a language model has no --image_size; leave it out")
    try:
        if kind in ARCHITECTURES:
            return _language_model(folder, config)
        tensors, pixels = Safetensors(folder), _pixels(folder)
        if kind == "llava":
            return _llava(folder, config, tensors, pixels, image_size)
        model, table = vision.FAMILIES[kind](config, pixels, list(tensors.shapes), image_size)
        return Source({"vit": Part(model, table)}, tensors)
    except KeyError as error:
        raise ConvertError(f"{path}: incomplete, has no {error}") from error
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
                f"{folder}: projector_hidden_act is 'linear', but {second} is not the identity; "
                "two consecutive linear layers are not supported"
            )
    tokenizer = _tokenizer(folder, mapping(config, "text_config"), model.vocab_size)
    return Source(parts, tensors, tokenizer, image_token)


def _tokenizer(folder: Path, config: dict, rows: int):
    """The tokenizer, which also carries the maximum text length into exports."""
    tokenizer = folder_tokenizer(folder, rows)
    if config.get("max_position_embeddings") is not None:
        tokenizer.model_max_length = whole(config, "max_position_embeddings")
    return tokenizer


def _check_head(model: DecoderConfig, tensors: Safetensors, stem: str, head: str) -> None:
    """Checks that a stored head equals the embedding if the config ties the two."""
    names = (f"{head}.weight", f"{stem}.embed_tokens.weight")
    if not model.tie_embeddings or not set(names) <= set(tensors.shapes):
        return
    if not np.array_equal(*map(tensors.read, names)):
        raise ConvertError(
            f"{tensors.place}: config.json ties the head to the embedding, but {names[0]} differs "
            "from it; set tie_word_embeddings to false to use it, or delete the tensor"
        )


def _pixels(folder: Path) -> dict[str, Any]:
    """Settings of the image processor, which may be nested in those of a whole processor."""
    whole_processor = folder / "processor_config.json"
    alone = folder / "preprocessor_config.json"
    if not alone.is_file() and whole_processor.is_file():
        settings = read_json(whole_processor)
        if "image_processor" in settings:
            return mapping(settings, "image_processor")
    return read_json(alone)

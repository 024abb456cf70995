"""GGUF files of the Llama family, read and dequantised by the `gguf` package.

llama.cpp rotates adjacent pairs where we rotate halves, so the rows of its q and k are permuted;
the table undoes that.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from slava_jax.convert.decoders import gguf_table
from slava_jax.convert.pretrained import Part, Source
from slava_jax.convert.rules import ConvertError
from slava_jax.convert.settings import check_sizes, epsilon, positive, whole
from slava_jax.convert.tokenizers import gguf_tokenizer
from slava_jax.facts import shown
from slava_jax.models.decoder import DecoderConfig
from slava_jax.nn.attention import rope_frequencies

_LONGEST = 2**22  # entries of a list; the largest vocabularies have a tenth
_DIMENSIONS = (
    "llama.attention.head_count", "llama.embedding_length", "llama.attention.head_count_kv",
    "llama.attention.key_length", "llama.feed_forward_length",
)  # fmt: skip
_EPSILON = "llama.attention.layer_norm_rms_epsilon"
_LLAMA3 = (1.0, 4.0, 8192.0)  # low and high factor, original length: the same in every Llama 3.x


class _Reader(gguf.GGUFReader):
    """The package's reader, which takes lengths in the file at their word, bounded by the file."""

    def _get(self, offset, dtype, count=1, override_order=None):
        found = super()._get(offset, dtype, count, override_order)
        if len(found) != int(count):
            raise ValueError(f"it ends within an entry of {int(count)} values")
        return found

    def _get_field_parts(self, orig_offs, raw_type):
        if raw_type == gguf.GGUFValueType.ARRAY:  # element type, uint32, and length, uint64
            length = int(self._get(orig_offs + 4, np.uint64)[0])
            if length > _LONGEST:
                raise ValueError(f"a list of {length} entries")
        return super()._get_field_parts(orig_offs, raw_type)


class GgufTensors:
    """The tensors of a GGUF file; see `rules.Tensors`. `metadata` has its other fields.

    Raises:
      ConvertError: not a GGUF file, a truncated one, or a part of one.
    """

    def __init__(self, path: Path):
        self.place = str(path)
        try:
            reader = _Reader(path)
            self.metadata = {name: field.contents() for name, field in reader.fields.items()}
            self.shapes = {t.name: tuple(int(n) for n in t.shape[::-1]) for t in reader.tensors}
        except OSError as error:
            raise ConvertError(f"{path}: cannot be read: {error}") from error
        except Exception as error:  # a truncated file fails in many ways inside the package
            raise ConvertError(
                f"{path}: not a GGUF file, or truncated ({error}); download it again"
            ) from error
        parts = self.metadata.get("split.count", 1)
        if parts != 1:
            raise ConvertError(
                f"{path}: one of {shown(parts)} parts of a split file; join them with llama.cpp "
                "(llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf) and convert WHOLE.gguf"
            )
        self.unreadable: dict[str, str] = {}  # unsupported formats are detected in `read`
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(self, name: str) -> np.ndarray:
        """See `rules.Tensors`."""
        tensor = self._tensors[name]
        try:
            array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise ConvertError(
                f"{self.place}: {name} is {tensor.tensor_type.name}, which the gguf package cannot "
                "dequantise; use a file in Q8_0, Q4_K, Q6_K or F16"
            ) from error
        return array.reshape(self.shapes[name])


def read_gguf(path: Path) -> Source:
    """Reads a GGUF file.

    Raises:
      ConvertError: an unsupported architecture or setting, or a damaged file.
    """
    tensors = GgufTensors(path)
    try:
        config = _config(tensors)
        tokenizer = gguf_tokenizer(tensors.metadata, config.vocab_size, tensors.place)
        if "llama.context_length" in tensors.metadata:
            tokenizer.model_max_length = whole(tensors.metadata, "llama.context_length")
    except KeyError as error:
        raise ConvertError(f"{path}: incomplete, has no field {error}") from error
    except (TypeError, ValueError, ZeroDivisionError, LookupError) as error:
        raise ConvertError(f"{path}: a field has an invalid value: {error}") from error
    part = Part(config, gguf_table(config))
    return Source({"language_model": part}, tensors, tokenizer)


def _config(tensors: GgufTensors) -> DecoderConfig:
    fields, shapes = tensors.metadata, tensors.shapes
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ConvertError(
            f"{tensors.place}: architecture {shown(architecture)} is not supported, only 'llama'"
        )
    field = lambda name, default=None: fields.get(f"llama.{name}", default)  # noqa: E731
    if field("rope.scaling.type", "none") != "none" or field("expert_count", 0):
        raise ConvertError(f"{tensors.place}: rope scaling and experts are not supported")
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        if field(name, 0) not in (0, 1):
            raise ConvertError(
                f"{tensors.place}: llama.{name} is {shown(field(name))}, but linear rope scaling "
                "is not supported; use a model without it"
            )
    sizes = _sizes(tensors)
    head_width = sizes["head_width"]
    if field("rope.dimension_count", head_width) != head_width:
        raise ConvertError(
            f"{tensors.place}: llama.rope.dimension_count is "
            f"{shown(field('rope.dimension_count'))}, but must be the head width {head_width}: "
            "partial rotation is not supported"
        )
    theta = _decimal(fields, "llama.rope.freq_base", 10_000.0)
    return DecoderConfig(
        **sizes,
        rope_theta=theta,
        norm_eps=epsilon({_EPSILON: _decimal(fields, _EPSILON)}, _EPSILON),
        tie_embeddings="output.weight" not in shapes,
        rope_scaling=_scaling(tensors, head_width // 2, theta),
    )


def _sizes(tensors: GgufTensors) -> dict[str, int]:
    """The sizes of a DecoderConfig, none larger than the tensors allow."""
    fields = tensors.metadata
    check_sizes(fields, tensors.shapes, "llama.block_count", _DIMENSIONS)
    heads, width = (whole(fields, name) for name in _DIMENSIONS[:2])
    return {
        "vocab_size": _rows(tensors),
        "width": width,
        "layers": whole(fields, "llama.block_count"),
        "heads": heads,
        "kv_heads": whole(fields, "llama.attention.head_count_kv", heads),
        "head_width": whole(fields, "llama.attention.key_length", width // heads),
        "mlp_width": whole(fields, "llama.feed_forward_length"),
    }


def _decimal(fields: dict[str, Any], name: str, *default: float) -> float:
    """The decimal number behind a float32: 1e-5 for 9.999999747378752e-06."""
    return positive({name: float(str(np.float32(positive(fields, name, *default))))}, name)


def _rows(tensors: GgufTensors) -> int:
    shape = tensors.shapes.get("token_embd.weight", ())
    if len(shape) != 2 or 0 in shape:
        raise ConvertError(f"{tensors.place}: incomplete, has no matrix token_embd.weight")
    return shape[0]


def _scaling(tensors: GgufTensors, half: int, theta: float) -> tuple[float, ...]:
    """Llama-3's rope scaling, which GGUF stores as a divisor for each frequency."""
    if "rope_freqs.weight" not in tensors.shapes:
        return ()
    divisors = tensors.read("rope_freqs.weight")
    scaling = (float(divisors.max()), *_LLAMA3)
    wanted = rope_frequencies(half, theta) / rope_frequencies(half, theta, scaling)
    if divisors.shape != wanted.shape or not np.allclose(divisors, wanted, rtol=1e-3):
        raise ConvertError(f"{tensors.place}: rope_freqs.weight is not Llama 3's rope scaling")
    return scaling

"""GGUF files of the Llama family, read and dequantised by the `gguf` package.

llama.cpp rotates adjacent pairs where we rotate halves, so the rows of its q and k are permuted;
the table undoes that.
"""

from pathlib import Path

import gguf
import numpy as np

from slava_jax.convert.decoders import gguf_table
from slava_jax.convert.pretrained import Part, Source
from slava_jax.convert.rules import ConvertError
from slava_jax.convert.tokenizers import gguf_tokenizer
from slava_jax.models.decoder import DecoderConfig
from slava_jax.nn.attention import rope_frequencies

_LLAMA3 = (1.0, 4.0, 8192.0)  # low and high factor, original length: the same in every Llama 3.x


class GgufTensors:
    """The tensors of a GGUF file; see `rules.Tensors`. `metadata` has its other fields.

    Raises:
      ConvertError: not a GGUF file, or a truncated one.
    """

    def __init__(self, path: Path):
        self.place = str(path)
        try:
            reader = gguf.GGUFReader(path)
        except OSError as error:
            raise ConvertError(f"{path}: cannot be read: {error}") from error
        except Exception as error:  # a truncated file fails in many ways inside the package
            raise ConvertError(
                f"{path}: not a GGUF file, or truncated ({error}); download it again"
            ) from error
        self.unreadable: dict[str, str] = {}  # unsupported formats are detected in `read`
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.shapes = {t.name: tuple(int(n) for n in t.shape[::-1]) for t in reader.tensors}
        self.metadata = {name: field.contents() for name, field in reader.fields.items()}

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
            tokenizer.model_max_length = int(tensors.metadata["llama.context_length"])
    except KeyError as error:
        raise ConvertError(f"{path}: incomplete, has no field {error}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConvertError(f"{path}: a field has an invalid value: {error}") from error
    part = Part(config, gguf_table(config))
    return Source({"language_model": part}, tensors, tokenizer)


def _config(tensors: GgufTensors) -> DecoderConfig:
    fields, shapes = tensors.metadata, tensors.shapes
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ConvertError(
            f"{tensors.place}: architecture {architecture!r} is not supported, only 'llama'"
        )
    field = lambda name, default=None: fields.get(f"llama.{name}", default)  # noqa: E731
    if field("rope.scaling.type", "none") != "none" or field("expert_count", 0):
        raise ConvertError(f"{tensors.place}: rope scaling and experts are not supported")
    for name in ("rope.scaling.factor", "rope.scale_linear"):
        if field(name, 0) not in (0, 1):
            raise ConvertError(
                f"{tensors.place}: llama.{name} is {field(name)}, but linear rope scaling is not "
                "supported; use a model without it"
            )
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    theta = _decimal(field("rope.freq_base", 10_000.0))
    head_width = int(field("attention.key_length", width // heads))
    if field("rope.dimension_count", head_width) != head_width:
        raise ConvertError(
            f"{tensors.place}: llama.rope.dimension_count is {field('rope.dimension_count')}, but "
            f"must be the head width {head_width}: partial rotation is not supported"
        )
    return DecoderConfig(
        vocab_size=_rows(tensors),
        width=width,
        layers=fields["llama.block_count"],
        heads=heads,
        kv_heads=field("attention.head_count_kv", heads),
        head_width=head_width,
        mlp_width=fields["llama.feed_forward_length"],
        rope_theta=theta,
        norm_eps=_decimal(fields["llama.attention.layer_norm_rms_epsilon"]),
        tie_embeddings="output.weight" not in shapes,
        rope_scaling=_scaling(tensors, head_width // 2, theta),
    )


def _decimal(value: float) -> float:
    """The decimal number behind a float32: 1e-5 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _rows(tensors: GgufTensors) -> int:
    if "token_embd.weight" not in tensors.shapes:
        raise ConvertError(f"{tensors.place}: incomplete, has no token_embd.weight")
    return tensors.shapes["token_embd.weight"][0]


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

"""Adapters as PEFT folders: adapter_config.json and adapter_model.safetensors.

PEFT's LoRA is `y = W x + (lora_alpha / r) B A x`, so one of our experts at rank b is a PEFT LoRA
with `r = b` and `lora_alpha = alpha`: the first b columns of A, the first b rows of B. Several
experts are not a LoRA, because the router depends on the token; see convert/routing.py.
"""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from slava_jax.checkpoint import CheckpointError, atomic_folder
from slava_jax.convert.huggingface import Safetensors
from slava_jax.convert.rules import ConvertError, Row, plan, slices, steps_of, transposed
from slava_jax.convert.settings import flag, positive, read_json
from slava_jax.facts import shown
from slava_jax.models.decoder import DecoderConfig
from slava_jax.models.interface import VisionLanguageModel
from slava_jax.nn.adapters import AdapterConfig, joined

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TEXT, LLAVA = "model", "model.language_model"  # path of the decoder in transformers' models
_MODULES = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}  # theirs -> ours
# Settings that could make the folder something other than plain LoRA on the weights it was trained
# on, with their harmless values. The initialisations listed leave the base weights unchanged.
_PLAIN = {
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "trainable_token_indices": ([], {}, None),
    "layers_to_transform": ([], None),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", None),
}
# Settings read elsewhere, used only in training, or evident from the tensors. Any other key that
# is set (aLoRA, QALoRA, those of a later peft) may change the answer and is refused.
_FREE = {
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "task_type",
    "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "layers_pattern", "loftq_config", "eva_config", "megatron_core",
    "qalora_group_size", "runtime_config", "ensure_weight_tying",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Lora:
    """One expert: `y += (alpha / rank) (x A) B`.

    Attributes:
      a, b: float32[layers, D_in, rank] and float32[layers, rank, D_out] of each adapted projection,
        some of 'q', 'k', 'v' and 'o'.
    """

    rank: int
    alpha: float
    a: dict[str, np.ndarray]
    b: dict[str, np.ndarray]

    def update(self, name: str, layer: int) -> np.ndarray:
        """The update of a projection's kernel, float32[D_in, D_out]."""
        return (self.alpha / self.rank) * (self.a[name][layer] @ self.b[name][layer])


def lora_of(model: VisionLanguageModel, variables: dict, rank: int | None = None) -> Lora:
    """The adapters of a one-expert assistant, at a rank (the largest by default).

    Raises:
      ConvertError: it has no adapters that read its text, several experts, or was not trained at
        that rank.
    """
    adapter = model.adapter
    if adapter is None:
        raise ConvertError("the model has no adapters; export it with --as base")
    if not model.adapted:
        raise ConvertError(
            "the adapters do not read the text (text_encoder is 'embeddings'), so they cannot be "
            "exported; use --as base"
        )
    if adapter.experts > 1:
        raise ConvertError(
            f"the adapters have {adapter.experts} experts and a router that depends on the token, "
            "so no single LoRA equals them. --merge_at_mean_routing TEXTS.jsonl merges them at the "
            "router's average over texts and reports what that costs"
        )
    rank = adapter.r_max if rank is None else rank
    check_rank(adapter, rank)
    places = {kind: variables[kind]["language_model"]["blocks"]["attention"] for kind in variables}
    held_a, held_b = places["params" if adapter.train_a else "frozen"], places["params"]
    a = {n: np.asarray(held_a[n]["lora_a"][..., :rank], np.float32) for n in _MODULES.values()}
    b = {n: np.asarray(held_b[n]["lora_b"][:, 0, :rank], np.float32) for n in _MODULES.values()}
    return Lora(rank, adapter.alpha, a, b)


def check_rank(adapter: AdapterConfig | None, rank: int) -> None:
    """Raises ConvertError if there are no adapters or they were not trained at that rank."""
    if adapter is None:
        raise ConvertError("the model has no adapters; export it with --as base")
    if not adapter.r_min <= rank <= adapter.r_max:
        raise ConvertError(
            f"rank {rank}: must be one that was trained, {adapter.r_min} to {adapter.r_max}"
        )


def with_lora(variables: dict, lora: Lora) -> dict:
    """`variables` with a LoRA as expert 0: its A becomes the adapters' A, its B that expert's B.

    For projections without LoRA, A is kept and B is zero. With one expert, the model at rank
    `lora.rank` answers exactly as with the LoRA; with several, the router's gate weights it and the
    other experts are unchanged.
    """
    held = variables["params"]["language_model"]["blocks"]["attention"]
    changed: dict[str, dict] = {"frozen": {}, "params": {}}
    for name in _MODULES.values():
        b = jnp.asarray(held[name]["lora_b"])
        changed["params"][name] = {"lora_b": b.at[:, 0].set(lora.b.get(name, 0))}
        if name in lora.a:
            kind = "params" if "lora_a" in held[name] else "frozen"  # where A is trained
            changed[kind].setdefault(name, {})["lora_a"] = jnp.asarray(lora.a[name])
    return joined(
        variables, {k: {"language_model": {"blocks": {"attention": v}}} for k, v in changed.items()}
    )


def write_peft(
    lora: Lora, config: DecoderConfig, directory: str | Path, decoder: str = TEXT
) -> None:
    """Writes a folder that `peft` loads onto the model the adapters were trained on.

    Args:
      decoder: path of the decoder in that model, TEXT or LLAVA. A LLaVA's encoder has projections
        of the same names, so its target_modules is a pattern.

    Raises:
      CheckpointError: the directory exists, or cannot be written.
    """
    held = {f"{name}/lora_a": array for name, array in lora.a.items()}
    held.update({f"{name}/lora_b": array for name, array in lora.b.items()})
    modules = [module for module, name in _MODULES.items() if name in lora.a]
    tensors = {
        step.name: np.ascontiguousarray(row.change(held[row.path][step.layer]))
        for row in _table(config, lora.rank, modules, decoder)
        for step in steps_of(row, config.layers)
    }
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": modules if decoder == TEXT else _pattern(modules),
        "bias": "none",
        "fan_in_fan_out": False,
    }
    with atomic_folder(directory, sum(array.nbytes for array in tensors.values())) as folder:
        folder.mkdir()
        try:
            save_file(tensors, folder / WEIGHTS, {"format": "pt"})
        except SafetensorError as error:  # what safetensors raises when the disk is full
            raise CheckpointError(f"{directory}: cannot be written: {error}") from error
        (folder / CONFIG).write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _pattern(modules: list[str]) -> str:
    """A LLaVA's target_modules: a pattern that peft matches against whole module names."""
    return rf".*language_model\.layers\.\d+\.self_attn\.({'|'.join(modules)})"


def _modules(settings: dict) -> list[str] | None:
    """Projections in target_modules, given as a list or by `_pattern`; None otherwise."""
    given = settings.get("target_modules")
    if isinstance(given, str):
        inner = given.rpartition("(")[2].removesuffix(")").split("|")
        given = inner if given == _pattern(inner) else None
    named = isinstance(given, list) and given and all(isinstance(m, str) for m in given)
    return given if named and set(given) <= set(_MODULES) else None


def read_peft(folder: Path, shape: DecoderConfig, adapter: AdapterConfig | None) -> Lora:
    """Reads a PEFT LoRA folder for the adapters of a language model, alone or in a LLaVA.

    PEFT's scaling is folded into B, so the result is the LoRA at rank `r_max` with our alpha.

    Raises:
      ConvertError: not a LoRA, or one these adapters cannot represent; the error names the key.
    """
    path = folder / CONFIG
    settings = read_json(path)
    _check(settings, adapter, path)
    if not (folder / WEIGHTS).is_file():
        raise ConvertError(
            f"{folder}: has no {WEIGHTS}. An adapter_model.bin is a pickle, which is never opened "
            "here; use peft's save_pretrained to write safetensors"
        )
    rank, alpha, layers = settings["r"], adapter.alpha, shape.layers
    scaling = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
    modules, tensors = _modules(settings), Safetensors(folder, WEIGHTS)
    inline = any(name.startswith(f"{_OUTER}.{LLAVA}.") for name in tensors.shapes)
    table = _table(shape, rank, modules, LLAVA if inline else TEXT)
    held: dict[str, list[np.ndarray]] = {row.path: [] for row in table}
    for name, _, array in slices(plan(table, tensors, layers, list(held)), tensors):
        held[name].append(array)
    names = [_MODULES[module] for module in modules]
    a, b = (
        {name: np.stack(held[f"{name}/{part}"]) for name in names} for part in ("lora_a", "lora_b")
    )
    fold = np.float32(scaling * rank / alpha)
    return Lora(rank, alpha, a, {name: fold * array for name, array in b.items()})


def _check(settings: dict, adapter: AdapterConfig | None, path: Path) -> None:
    problems = []
    if settings.get("peft_type") != "LORA":
        problems.append(f"peft_type: must be 'LORA', is {shown(settings.get('peft_type'))}")
    if adapter is None or type(settings.get("r")) is not int or settings["r"] != adapter.r_max:
        rank, largest = shown(settings.get("r")), adapter and adapter.r_max
        problems.append(f"r: {rank}, but adapter.r_max is {largest} in the config")
    try:
        positive({"lora_alpha": settings.get("lora_alpha")}, "lora_alpha")
        flag(settings, "use_rslora", False)
    except ValueError as error:
        problems.append(str(error))
    if _modules(settings) is None:
        given = settings.get("target_modules")
        problems.append(f"target_modules: {shown(given)} is not a list of some of {list(_MODULES)}")
    problems += [
        f"{key}: {shown(settings[key])} is not supported by these adapters"
        for key, plain in _PLAIN.items()
        if settings.get(key) not in plain
    ]
    problems += [
        f"{key}: {shown(value)} is an unknown setting"
        for key, value in settings.items()
        if key not in _FREE and key not in _PLAIN and value not in (None, False, [], {})
    ]
    if problems:
        raise ConvertError("\n  ".join([f"{path}: does not fit this model's adapters:", *problems]))


_OUTER = "base_model.model"  # peft's prefix for the names of the model it wraps


def _table(c: DecoderConfig, rank: int, modules: list[str], decoder: str) -> list[Row]:
    """Rows for both directions: a transposition is its own inverse."""
    queries, keys = c.heads * c.head_width, c.kv_heads * c.head_width
    widths = {"q": (c.width, queries), "k": (c.width, keys), "v": (c.width, keys)}
    widths["o"] = (queries, c.width)
    rows = []
    for module in modules:
        name = _MODULES[module]
        stem, (d_in, d_out) = f"{_OUTER}.{decoder}.layers.{{}}.self_attn.{module}", widths[name]
        rows += [
            Row(f"{stem}.lora_A.weight", f"{name}/lora_a", (rank, d_in), transposed),
            Row(f"{stem}.lora_B.weight", f"{name}/lora_b", (d_out, rank), transposed),
        ]
    return rows

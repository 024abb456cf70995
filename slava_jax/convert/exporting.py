"""Exports an assistant; every function returns a description of what it wrote.

A sLAVA exports its text encoder, a model with images in its sequence a whole LLaVA.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from slava_jax.convert import export, export_llava, peft, pretrained, routing
from slava_jax.convert.peft import Lora
from slava_jax.convert.rules import ConvertError
from slava_jax.models.interface import VisionLanguageModel


def write_base(
    model: VisionLanguageModel,
    variables: dict,
    tokenizer: PreTrainedTokenizerFast,
    directory: str | Path,
) -> str:
    """Writes the model without its adapters: for a sLAVA, the language model alone.

    Raises:
      ConvertError, CheckpointError: see `export`.
    """
    if _inline(variables):
        _write(model, variables, tokenizer, directory)
        return "a LLaVA without adapters, in float32"
    tree = export.language_tree(variables)
    base = export.base_model(model.config.language_model, tree)
    export.write_folder(base, tokenizer, directory)
    return "the base language model, in float32"


def write_converted(source: str | Path, directory: str | Path) -> str:
    """Writes converted weights: a language model or a LLaVA.

    Raises:
      ConvertError: a vision encoder's weights. CheckpointError: they cannot be read or written.
    """
    held = pretrained.load(source)
    if held.tokenizer is None:
        raise ConvertError(f"{source}: a vision encoder cannot be exported, only language models")
    text = export.base_model(held.configs["language_model"], held.tree["language_model"])
    if "connector" not in held.configs:
        export.write_folder(text, held.tokenizer, directory)
        return "the base language model, in float32"
    parts = held.configs["vit"], held.configs["connector"], text
    llava = export_llava.llava_model(*parts, export.reader(held.tree), held.tokenizer)
    export.write_folder(llava, held.tokenizer, directory)
    return "a LLaVA without adapters, in float32"


def write_adapted(
    form: str,
    model: VisionLanguageModel,
    variables: dict,
    tokenizer: PreTrainedTokenizerFast,
    rank: int,
    directory: str | Path,
    texts: str | Path | None = None,
) -> str:
    """Writes the adapters at a rank, for peft or merged into the model.

    Args:
      form: 'peft' or 'huggingface'.
      texts: a file of texts over which several experts are merged at their mean routing
        (`routing`).

    Raises:
      ConvertError: no adapters of that rank, or several experts and no texts.
      CheckpointError: the directory exists or cannot be written.
    """
    peft.check_rank(model.adapter, rank)
    said = ""
    if texts:
        form_of = model.text_form(tokenizer.eos_token_id)
        batches = routing.prompts(routing.read_texts(texts), tokenizer, form_of)
        before = model, variables
        model, variables = routing.merged_at_mean(*before, batches, rank)
        cost = routing.divergence(before, (model, variables), batches, rank)
        said = (
            f"; experts merged at their mean routing over {len(batches)} texts, at a cost of "
            f"KL {cost.kl:.3g} nats per token there; top-1 agreement {cost.top1:.4f}"
        )
    lora = peft.lora_of(model, variables, rank)
    inline = _inline(variables)
    if form == "peft":
        decoder = peft.LLAVA if inline else peft.TEXT
        peft.write_peft(lora, model.config.language_model, directory, decoder)
        return f"a LoRA of rank {rank} for peft{said}"
    _write(model, variables, tokenizer, directory, lora)
    what = "a LLaVA" if inline else "the text encoder"
    return f"{what} with its adapters of rank {rank} merged in, in float32{said}"


def _inline(variables: dict) -> bool:
    return "connector" in variables["params"]


def _write(
    model: VisionLanguageModel,
    variables: dict,
    tokenizer: PreTrainedTokenizerFast,
    directory: str | Path,
    lora: Lora | None = None,
) -> None:
    exported: export.Exportable = export.merged_model(model, variables, lora)
    if _inline(variables):
        vit, connector = model.config.vit, model.config.connector
        read = export_llava.trained_parts(vit, variables)
        exported = export_llava.llava_model(vit, connector, exported, read, tokenizer)
    export.write_folder(exported, tokenizer, directory)

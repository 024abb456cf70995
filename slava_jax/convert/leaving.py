"""An assistant in the form asked for; every function says what it wrote.

Of a sLAVA its text encoder leaves, of a model with images in its sequence a whole LLaVA.
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
    """The model without its adapters: of a sLAVA the language model alone.

    Raises:
      ConvertError, CheckpointError: as of `export`.
    """
    if _inline(variables):
        _write(model, variables, tokenizer, directory)
        return "a LLaVA without adapters, in float32"
    tree = export.language_tree(variables)
    base = export.base_model(model.config.language_model, tree)
    export.write_folder(base, tokenizer, directory)
    return "the base alone, in float32"


def write_converted(source: str | Path, directory: str | Path) -> str:
    """The base alone, of converted weights: a language model or a LLaVA.

    Raises:
      ConvertError: they are a vision encoder's. CheckpointError: they cannot be read or written.
    """
    held = pretrained.load(source)
    if held.tokenizer is None:
        raise ConvertError(f"{source}: a vision encoder; only language models leave")
    text = export.base_model(held.configs["language_model"], held.tree["language_model"])
    if "connector" not in held.configs:
        export.write_folder(text, held.tokenizer, directory)
        return "the base alone, in float32"
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
    """The adapters at a rank: for peft, or merged into the model.

    Args:
      form: 'peft' or 'huggingface'.
      texts: a file over whose texts the mean routing merges several experts (`routing`).

    Raises:
      ConvertError: there are no adapters of that rank, or several experts and no texts.
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
            f"; experts merged at their mean routing over {len(batches)} texts, on which that "
            f"costs KL {cost.kl:.3g} nats a token; top-1 agreement {cost.top1:.4f}"
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
    leaving: export.Leaving = export.merged_model(model, variables, lora)
    if _inline(variables):
        vit, connector = model.config.vit, model.config.connector
        read = export_llava.trained_parts(vit, variables)
        leaving = export_llava.llava_model(vit, connector, leaving, read, tokenizer)
    export.write_folder(leaving, tokenizer, directory)

"""`slava convert`: import, export in each format, flags and errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_models import TINY, plain_logits, tiny_folder
from safetensors.numpy import load_file
from text_encoder import TOKENS, logits_of, made, tokenizer
from tiny_model import as_config

from slava_jax.commands.convert import main
from slava_jax.convert import export, routing
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.pretrained import load, write
from slava_jax.inference.assistant import Assistant, save_assistant
from slava_jax.nn.adapters import joined, split_frozen

TEXTS = ["is the film thin?", "<image>the wires are thick, or is it a porous sponge?", "nm?"]


def read_back(folder, to):
    """Imports a Hugging Face folder."""
    write(read_folder(folder), to)
    return load(to)


def test_the_command_writes_what_load_reads(tmp_path, capsys):
    """Every number of the file, kernels transposed and layers stacked."""
    folder = tiny_folder(tmp_path / "theirs")
    main(["--from", str(folder), "--to", str(tmp_path / "ours")])
    assert f"--config.start_from.language={tmp_path}/ours" in capsys.readouterr().out
    found, tensors = load(tmp_path / "ours"), load_file(folder / "model.safetensors")
    assert found.configs["language_model"] == TINY and not found.quantized
    down = found.tree["language_model"]["blocks"]["down"]["kernel"]
    assert down.shape == (3, 48, 32)
    np.testing.assert_array_equal(down[2], tensors["model.layers.2.mlp.down_proj.weight"].T)
    head = found.tree["language_model"]["head"]["kernel"]
    np.testing.assert_array_equal(head, tensors["lm_head.weight"].T)


def test_what_is_there_is_not_overwritten(tmp_path):
    """It may belong to another model."""
    with pytest.raises(SystemExit, match="already exists"):
        main(["--from", str(tiny_folder(tmp_path / "theirs")), "--to", str(tmp_path)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Work directories with one expert and with four."""
    folder = tmp_path_factory.mktemp("runs")
    for experts in (1, 4):
        model, variables = made(experts)
        assistant = Assistant(model, variables, tokenizer())
        save_assistant(assistant, as_config(model), folder / str(experts))
    return folder


def test_the_command_writes_each_form(run, tmp_path, capsys):
    """From a run; the base also from converted weights."""
    for form in ("peft", "huggingface", "base"):
        options = [] if form == "base" else ["--rank", "4"]
        main(["--from", f"{run}/1", "--to", f"{tmp_path}/{form}", "--as", form, *options])
    said = capsys.readouterr().out
    assert "rank 4 for peft" in said and "rank 4 merged in" in said and "base language" in said
    model, variables = made()
    merged = read_back(tmp_path / "huggingface", tmp_path / "merged")
    wanted = logits_of(model, variables, rank=4)
    np.testing.assert_allclose(plain_logits(merged, TOKENS), wanted, atol=1e-4)
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["r"] == 4
    read_back(tmp_path / "base", tmp_path / "converted")
    main(["--from", f"{tmp_path}/converted", "--to", f"{tmp_path}/again", "--as", "base"])
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()


def test_several_experts_leave_merged_and_the_cost_is_printed(run, tmp_path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    paths = ["--from", f"{run}/4", "--to", f"{tmp_path}/out", "--as", "huggingface"]
    main([*paths, "--merge_at_mean_routing", str(texts)])
    model, variables = made(4)
    batches = routing.prompts(TEXTS, tokenizer(), model.text_form(3))
    merged = routing.merged_at_mean(model, variables, batches, 6)
    found = routing.divergence((model, variables), merged, batches, 6)
    said = capsys.readouterr().out
    assert f"over 3 texts, at a cost of KL {found.kl:.3g} nats" in said
    assert f"agreement {found.top1:.4f}" in said
    out = read_back(tmp_path / "out", tmp_path / "ours")
    np.testing.assert_allclose(plain_logits(out, TOKENS), logits_of(*merged), atol=1e-4)


def test_a_run_whose_base_has_moved_leaves_all_the_same(tmp_path):
    """`--base` gives its path, as the error suggests."""
    model, variables = made()
    base = export.base_model(model.config.language_model, variables["frozen"]["language_model"])
    export.write_folder(base, tokenizer(), tmp_path / "theirs")
    write(read_folder(tmp_path / "theirs"), tmp_path / "was", quantized=True)
    _, own = split_frozen(variables["frozen"])
    frozen = joined(jax.tree.map(jnp.asarray, load(tmp_path / "was").tree), own)
    assistant = Assistant(model, {**variables, "frozen": frozen}, tokenizer())
    save_assistant(assistant, as_config(model), tmp_path / "run", tmp_path / "was")
    (tmp_path / "was").rename(tmp_path / "moved")
    command = ["--from", f"{tmp_path}/run", "--to", f"{tmp_path}/out", "--as", "huggingface"]
    with pytest.raises(SystemExit, match="--base DIR"):
        main(command)
    main([*command, "--base", f"{tmp_path}/moved"])
    found = read_back(tmp_path / "out", tmp_path / "ours")
    wanted = logits_of(model, assistant.variables)
    np.testing.assert_allclose(plain_logits(found, TOKENS), wanted, atol=1e-4)
    with pytest.raises(SystemExit, match="is itself a base"):
        main(
            ["--from", f"{tmp_path}/moved", "--to", f"{tmp_path}/x", "--as", "base", "--base", "b"]
        )


def test_what_cannot_leave_ends_in_one_error(run, tmp_path, capsys):
    """Nothing is written."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "thin"}')
    merge = ["--merge_at_mean_routing", str(texts)]
    cases = [
        (["4", "--as", "peft"], "4 experts and a router that depends on the token"),
        (["4", "--as", "huggingface"], "--merge_at_mean_routing"),
        (["1", "--as", "peft", "--rank", "7"], "rank 7: must be one that was trained, 2 to 6"),
        (
            ["4", "--as", "peft", "--rank", "7", *merge],
            "rank 7: must be one that was trained, 2 to 6",
        ),
        (["4", "--as", "huggingface", *merge, "--to", str(run)], "already exists"),
        (["1", "--as", "peft", *merge], "there are no experts to merge"),
        (["none", "--as", "peft"], "no trained assistant here"),
        (["1"], "config.json"),
    ]
    for (name, *options), part in cases:
        with pytest.raises(SystemExit) as error:
            main(["--from", f"{run}/{name}", "--to", f"{tmp_path}/out", *options])
        assert str(error.value.code).startswith("error: ") and part in str(error.value.code)
    for options in (
        ["--as", "peft", "--quantize", "int8"],
        ["--rank", "3"],
        ["--base", "x"],
        ["--as", "base", "--rank", "3"],
        ["--as", "base", *merge],
    ):
        with pytest.raises(SystemExit):
            main(["--from", f"{run}/1", "--to", f"{tmp_path}/out", *options])
        assert options[-2] in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]

"""Exported weights, read back by our reader; merging several experts."""

import dataclasses
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_models import plain_logits
from text_encoder import ALL_TOKENS, logits_of, made, tokenizer
from tiny_model import as_config

from slava_jax.checkpoint import CheckpointError
from slava_jax.convert import export, routing
from slava_jax.convert.huggingface import read_folder
from slava_jax.convert.peft import lora_of
from slava_jax.convert.pretrained import load, write
from slava_jax.convert.rules import ConvertError
from slava_jax.data.tokenizer import train_tokenizer
from slava_jax.inference.assistant import Assistant, has_assistant, save_assistant
from slava_jax.models.slava import Slava
from slava_jax.nn.quantized import dequantize

FORM = made()[0].text_form(3)
TEXTS = ["is the film thin?", "<image>the wires are thick, or is it a porous sponge?", "nm?"]


def read_back(folder, to):
    """Reads an exported Hugging Face folder with our converter."""
    write(read_folder(folder), to)
    return load(to)


def test_a_base_that_went_out_comes_in_the_same(tmp_path):
    """Bitwise, dequantised: every tensor, the config and the tokenizer."""
    model, variables = made()
    base = variables["frozen"]["language_model"]
    export.write_folder(
        export.base_model(model.config.language_model, base), tokenizer(), tmp_path / "out"
    )
    found = read_back(tmp_path / "out", tmp_path / "ours")
    assert found.configs["language_model"] == model.config.language_model
    assert found.tokenizer.get_vocab() == tokenizer().get_vocab()
    up, wanted = found.tree["language_model"]["blocks"]["up"]["kernel"], base["blocks"]["up"]
    np.testing.assert_array_equal(up, dequantize(wanted["kernel"], wanted["scale"]))
    np.testing.assert_array_equal(found.tree["language_model"]["embedding"], base["embedding"])


def test_how_long_a_text_may_be_comes_in_and_goes_out(tmp_path):
    """The length limit is part of the tokenizer; without one, none is invented."""
    model, variables = made()
    base = export.base_model(model.config.language_model, variables["frozen"]["language_model"])
    config = tmp_path / "first/config.json"
    export.write_folder(base, tokenizer(), config.parent)
    settings = json.loads(config.read_text())
    assert "max_position_embeddings" not in settings
    config.write_text(json.dumps({**settings, "max_position_embeddings": 77}))
    found = read_back(config.parent, tmp_path / "ours")
    export.write_folder(base, found.tokenizer, tmp_path / "second")
    again = json.loads((tmp_path / "second/config.json").read_text())
    assert again["max_position_embeddings"] == 77


@pytest.mark.parametrize("rank", [2, 6])
def test_the_merged_model_is_the_text_encoder(rank, tmp_path, monkeypatch):
    """Also in several shards, and for the four tokens after the table."""
    monkeypatch.setattr(export, "_SHARD", 20_000)
    model, variables = made()
    merged = export.merged_model(model, variables, lora_of(model, variables, rank))
    export.write_folder(merged, tokenizer(), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    found = read_back(tmp_path / "out", tmp_path / "ours")
    wanted = logits_of(model, variables, ALL_TOKENS, rank)
    np.testing.assert_allclose(plain_logits(found, ALL_TOKENS), wanted, atol=1e-4)
    other = logits_of(model, variables, ALL_TOKENS, 8 - rank)
    assert np.abs(other - wanted).max() > 0.01
    assert found.tokenizer.convert_tokens_to_ids(["<image>", "<EOS>"]) == [264, 267]


@pytest.mark.parametrize("experts", [1, 4])
def test_a_text_encoder_that_is_no_llama(experts):
    """The control that reads only the embedding table cannot be exported as a Llama."""
    model, variables = made(experts)
    model = Slava(dataclasses.replace(model.config, text_encoder="embeddings"))
    with pytest.raises(ConvertError, match="text_encoder is 'embeddings'"):
        lora_of(model, variables)
    if experts > 1:
        batches = routing.prompts(TEXTS, tokenizer(), FORM)
        with pytest.raises(ConvertError, match="text_encoder is 'embeddings'"):
            routing.merged_at_mean(model, variables, batches, 6)


def test_a_vocabulary_that_has_one_of_the_four_tokens(tmp_path):
    """It would clash with the assistant's own."""
    model, variables = made()
    merged = export.merged_model(model, variables, lora_of(model, variables))
    taken = train_tokenizer(["the film is thin"] * 3, 263)
    taken.add_tokens(["<image>"])
    with pytest.raises(ConvertError, match="one of <image>"):
        export.write_folder(merged, taken, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_asked_before(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    model, variables = made()
    base = export.base_model(model.config.language_model, variables["frozen"]["language_model"])
    with pytest.raises(CheckpointError, match="GiB needed"):
        export.write_folder(base, tokenizer(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_files():
    """Writes beyond 1 KB fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_while_the_tokenizer_is_written(tmp_path, small_files):
    """tokenizers raises no OSError of its own."""
    model, variables = made()
    base = export.base_model(model.config.language_model, variables["frozen"]["language_model"])
    with pytest.raises(CheckpointError, match=r"out: cannot be written: .*File too large"):
        export.write_folder(base, tokenizer(), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"model: cannot be written: .*File too large"):
        save_assistant(Assistant(model, variables, tokenizer()), as_config(model), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not has_assistant(tmp_path / "run")


def with_routers(variables, change):
    def at(path, leaf):
        return change(leaf) if path[-1].key == "router" else leaf

    return jax.tree_util.tree_map_with_path(at, variables)


def cost(model, variables, merged, batches):
    return routing.divergence((model, variables), merged, batches, 6)


def test_a_router_that_looks_at_nothing_is_merged_exactly():
    """Constant gates equal their mean, so the merged expert is the mixture."""
    model, variables = made(4)
    variables = with_routers(variables, jnp.zeros_like)
    batches = routing.prompts(TEXTS, tokenizer(), FORM)
    merged = routing.merged_at_mean(model, variables, batches, 6)
    wanted = logits_of(model, variables)
    np.testing.assert_allclose(logits_of(*merged), wanted, atol=1e-5)
    found = cost(model, variables, merged, batches)
    assert abs(found.kl) < 1e-6 and found.top1 == 1


def test_a_router_that_looks_costs_something_and_the_mean_least():
    """Less than any single expert; gates are averaged over real tokens, per layer."""
    model, variables = made(4)
    variables = with_routers(variables, lambda leaf: 5 * leaf)
    batches = routing.prompts(TEXTS, tokenizer(), FORM)
    gates = routing.mean_gates(model, variables, batches, 6)
    np.testing.assert_allclose(gates["o"].sum(axis=-1), [1, 1], atol=1e-6)
    mean = cost(model, variables, routing.one_expert(model, variables, gates), batches)
    assert mean.kl > 1e-4
    for k in range(4):
        alone = jax.tree.map(lambda g, k=k: jnp.zeros_like(g).at[:, k].set(1), gates)
        assert cost(model, variables, routing.one_expert(model, variables, alone), batches).kl > (
            mean.kl
        )


def test_gates_are_averaged_over_tokens_and_not_over_padding():
    """Texts are weighted by their number of tokens."""
    model, variables = made(4)
    one, other = (routing.prompts([text], tokenizer(), FORM) for text in TEXTS[:2])
    means = [routing.mean_gates(model, variables, batches, 6)["v"] for batches in (one, other)]
    lengths = [int((batch["order"] < 10_000).sum()) for (batch,) in (one, other)]
    together = routing.mean_gates(model, variables, [*one, *other], 6)["v"]
    weighted = (lengths[0] * means[0] + lengths[1] * means[1]) / sum(lengths)
    np.testing.assert_allclose(together, weighted, atol=1e-6)
    (batch,) = one
    longer = {"tokens": np.pad(batch["tokens"], ((0, 0), (0, 32)))}
    longer["order"] = np.pad(batch["order"], ((0, 0), (0, 32)), constant_values=2**30)
    padded = routing.mean_gates(model, variables, [longer], 6)["v"]
    np.testing.assert_allclose(padded, means[0], atol=1e-6)


def test_divergence_is_kl_and_agreement():
    """Against the plain formula in float64, over real tokens."""
    model, variables = made(4)
    _, other = merged = routing.merged_at_mean(
        model, variables, routing.prompts(TEXTS, tokenizer(), FORM), 6
    )
    batches = routing.prompts(TEXTS[:1], tokenizer(), FORM)
    tokens = batches[0]["tokens"][:, : (batches[0]["order"] < 10_000).sum()]
    p, q = (np.float64(logits_of(*x, tokens)) for x in ((model, variables), (merged[0], other)))
    p, q = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in (p, q))
    found = cost(model, variables, merged, batches)
    assert found.kl == pytest.approx((np.exp(p) * (p - q)).sum(axis=-1).mean(), rel=1e-2)
    assert found.top1 == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())


def test_texts_are_lines_with_text_or_question(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n\n{"id": "1", "question": "<image>b?"}\n')
    assert routing.read_texts(path) == ["a", "<image>b?"]
    path.write_text('{"text": "a\u2028b\x85"}\r\n', encoding="utf-8")
    assert routing.read_texts(path) == ["a\u2028b\x85"]
    path.write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(ConvertError, match=r"texts\.jsonl:2: must be"):
        routing.read_texts(path)
    path.write_text('{"text": "a", "text": "b"}\n')
    with pytest.raises(ConvertError, match=r"texts\.jsonl:1: .*the key 'text' occurs twice"):
        routing.read_texts(path)
    path.write_text("")
    with pytest.raises(ConvertError, match="has no texts"):
        routing.read_texts(path)

"""PEFT folders: compared with peft itself, and refused input."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from text_encoder import ALL_TOKENS, TOKENS, VOCABULARY, logits_of, made, tokenizer
from tiny_model import random_variables, tiny

from slava_jax.commands.convert import main
from slava_jax.convert import export, routing
from slava_jax.convert.peft import CONFIG, WEIGHTS, lora_of, read_peft, with_lora, write_peft
from slava_jax.convert.rules import ConvertError
from slava_jax.models.slava import Slava
from slava_jax.nn.adapters import split_base

SHAPE, ADAPTER = tiny(vocabulary=VOCABULARY).language_model, tiny(experts=1).adapter


@functools.cache
def reference():
    """peft, torch and transformers, if installed."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    return peft, torch, pytest.importorskip("transformers")


def base_of(folder):
    """The transformers Llama from a folder written by `export`."""
    _, torch, transformers = reference()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def logits(model, tokens=TOKENS):
    _, torch, _ = reference()
    with torch.no_grad():
        return model(torch.from_numpy(tokens).long()).logits.numpy()


def write_base(model, variables, folder):
    base = export.base_model(model.config.language_model, variables["frozen"]["language_model"])
    export.write_folder(base, tokenizer(), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "rank"), [(1.0, 6), (1.0, 2), (1.5, 5)])
def test_peft_answers_as_the_adapters(alpha, rank, tmp_path):
    """On the dequantised base, at the requested rank."""
    peft, _, _ = reference()
    model, variables = made(alpha=alpha)
    write_peft(lora_of(model, variables, rank), model.config.language_model, tmp_path / "adapter")
    base = base_of(write_base(model, variables, tmp_path / "base"))
    plain = logits(base)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    wanted = logits_of(model, variables, rank=rank)[..., :VOCABULARY]
    np.testing.assert_allclose(logits(adapted), wanted, atol=1e-4)
    assert np.abs(wanted - plain).max() > 0.1  # the adapters change the answer
    settings = adapted.peft_config["default"]
    assert settings.lora_alpha / settings.r == pytest.approx(alpha / rank)


@pytest.mark.slow
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    "modules", [["q_proj", "k_proj", "v_proj", "o_proj"], ["q_proj", "v_proj"]]
)
def test_a_lora_of_peft_comes_in(modules, rslora, tmp_path):
    """As the only expert, at the largest rank, scaling folded in; then exported again."""
    peft, torch, _ = reference()
    model, variables = made(alpha=0.5)
    base = base_of(write_base(model, variables, tmp_path / "base"))
    settings = peft.LoraConfig(
        r=6, lora_alpha=9, target_modules=modules, task_type="CAUSAL_LM", use_rslora=rslora
    )
    theirs = peft.get_peft_model(base, settings).eval()
    torch.manual_seed(0)
    for name, weight in theirs.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = with_lora(
        variables, read_peft(tmp_path / "theirs", model.config.language_model, model.adapter)
    )
    wanted = logits(theirs)
    np.testing.assert_allclose(logits_of(model, ours)[..., :VOCABULARY], wanted, atol=1e-4)
    assert np.abs(logits_of(model, variables)[..., :VOCABULARY] - wanted).max() > 0.1
    write_peft(lora_of(model, ours), model.config.language_model, tmp_path / "again")
    base = base_of(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "again").eval()
    np.testing.assert_allclose(logits(again), wanted, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_reads_the_merged_model(tied, experts, tmp_path):
    """All `V + 4` logits, for a Llama with non-default settings."""
    llama = {"tie_embeddings": tied, "rope_theta": 500.0, "norm_eps": 0.01}
    model, variables = made(experts, rope_scaling=(8.0, 1.0, 4.0, 64.0), **llama)
    if experts > 1:
        batches = routing.prompts(["is the film thin?"], tokenizer(), model.text_form(3))
        model, variables = routing.merged_at_mean(model, variables, batches, 6)
    lora = lora_of(model, variables, 4)
    merged = export.merged_model(model, variables, lora)
    export.write_folder(merged, tokenizer(), tmp_path / "out")
    wanted = logits_of(model, variables, ALL_TOKENS, 4)
    np.testing.assert_allclose(logits(base_of(tmp_path / "out"), ALL_TOKENS), wanted, atol=1e-4)
    _, _, transformers = reference()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("a<image>")["input_ids"][-1] == 264 and len(theirs) == 268


@pytest.fixture
def folder(tmp_path):
    """A LoRA of rank 6 for the tiny model."""
    model, variables = made()
    write_peft(lora_of(model, variables), model.config.language_model, tmp_path / "lora")
    return tmp_path / "lora"


def change(folder, **settings):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_what_went_out_comes_in_the_same(folder):
    """Without peft: into expert 0 of a model with the same base; other experts are unchanged."""
    model, variables = made()
    fresh = random_variables(model, seed=1)
    fresh = {**fresh, "frozen": variables["frozen"], "params": {**fresh["params"]}}
    fresh["params"]["special_embedding"] = variables["params"]["special_embedding"]
    ours = with_lora(fresh, read_peft(folder, model.config.language_model, model.adapter))
    wanted = logits_of(model, variables)
    np.testing.assert_allclose(logits_of(model, ours), wanted, atol=1e-5)
    four, held = made(4)
    many = with_lora(held, read_peft(folder, four.config.language_model, four.adapter))
    q, before = (v["params"]["language_model"]["blocks"]["attention"]["q"] for v in (many, held))
    lora = variables["params"]["language_model"]["blocks"]["attention"]["q"]["lora_b"]
    np.testing.assert_allclose(q["lora_b"][:, 0], lora[:, 0], atol=1e-6)
    np.testing.assert_array_equal(q["lora_b"][:, 1:], before["lora_b"][:, 1:])
    assert np.any(before["lora_b"][:, 0] != q["lora_b"][:, 0]) and "router" in q


def test_a_lora_comes_into_adapters_that_train_a(folder):
    """There A is a parameter; the answers and the LoRA read back are the same."""
    model, variables = made()
    plain, held = made(train_a=True)
    lora = read_peft(folder, model.config.language_model, plain.adapter)
    params = held["params"] | {"special_embedding": variables["params"]["special_embedding"]}
    ours = with_lora({"frozen": variables["frozen"], "params": params}, lora)
    frozen, _ = split_base(ours["frozen"])
    ours = {**ours, "frozen": frozen}
    np.testing.assert_allclose(logits_of(plain, ours), logits_of(model, variables), atol=1e-5)
    again = lora_of(plain, ours)
    for name in "qkvo":
        np.testing.assert_allclose(again.a[name], lora.a[name], atol=1e-6)


def test_a_lora_on_some_projections_leaves_the_others_alone(folder):
    """On q and v, as is peft's default. Expert 0 adds nothing to k and o."""
    model, variables = made()
    whole = read_peft(folder, model.config.language_model, model.adapter)
    some = dataclasses.replace(
        whole, a={n: whole.a[n] for n in "qv"}, b={n: whole.b[n] for n in "qv"}
    )
    write_peft(some, model.config.language_model, folder.parent / "some")
    read = read_peft(folder.parent / "some", model.config.language_model, model.adapter)
    assert set(read.a) == set(read.b) == {"q", "v"}
    ours = with_lora(variables, read)
    none = {name: np.zeros_like(b) for name, b in whole.b.items()}
    wanted = with_lora(variables, dataclasses.replace(whole, b={**none, **some.b}))
    np.testing.assert_array_equal(logits_of(model, ours), logits_of(model, wanted))
    assert np.abs(logits_of(model, ours) - logits_of(model, variables)).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"peft_type": "IA3"}, "peft_type: must be 'LORA', is 'IA3'"),
        ({"r": 8}, "r: 8, but adapter.r_max is 6 in the config"),
        ({"target_modules": ["q_proj", "up_proj"]}, "target_modules: ['q_proj', 'up_proj']"),
        ({"target_modules": []}, "target_modules: []"),
        ({"target_modules": [["q_proj"]]}, "target_modules: [['q_proj']]"),
        ({"target_modules": ".*_proj"}, "target_modules: '.*_proj'"),
        ({"use_dora": True}, "use_dora: True"),
        ({"bias": "all"}, "bias: 'all'"),
        ({"r": 6.0}, "r: 6.0, but adapter.r_max is 6"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens: [5, 6]"),
        ({"use_qalora": True}, "use_qalora: True"),
        ({"layer_replication": [[0, 2]]}, "layer_replication: [[0, 2]]"),
        ({"of_a_later_peft": {"x": 1}}, "of_a_later_peft: {'x': 1}"),
        ({"rank_pattern": {"q_proj": 3}}, "rank_pattern: {'q_proj': 3}"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: ['lm_head']"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa'"),
        ({"lora_alpha": None}, "lora_alpha: must be a number above 0, is None"),
        ({"use_rslora": "yes"}, "use_rslora: must be true or false, is 'yes'"),
    ],
)
def test_settings_that_the_adapters_do_not_have(settings, part, folder):
    change(folder, **settings)
    with pytest.raises(ConvertError) as error:
        read_peft(folder, SHAPE, ADAPTER)
    assert part in str(error.value) and CONFIG in str(error.value)


def test_tensors_that_are_not_those_of_the_config(folder):
    """Missing, left over and of the wrong shape, all listed."""
    tensors = load_file(folder / WEIGHTS)
    stem = "base_model.model.model.layers.0.self_attn"
    tensors["extra"] = tensors.pop(f"{stem}.q_proj.lora_A.weight")
    tensors[f"{stem}.k_proj.lora_B.weight"] = np.zeros((6, 6), np.float32)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ConvertError) as error:
        read_peft(folder, SHAPE, ADAPTER)
    parts = ("extra", f"{stem}.q_proj.lora_A.weight", "is [6, 6], must be [16, 6]")
    assert not [part for part in parts if part not in str(error.value)]


def test_files_that_are_not_there(folder):
    """Pickles are not opened; an adapter is not a model to convert."""
    with pytest.raises(SystemExit, match=r"start_from\.adapter"):
        main(["--from", str(folder), "--to", str(folder / "out")])
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ConvertError, match="pickle"):
        read_peft(folder, SHAPE, ADAPTER)
    (folder / CONFIG).unlink()
    with pytest.raises(ConvertError, match=CONFIG):
        read_peft(folder, SHAPE, ADAPTER)


def test_a_lora_on_a_model_without_adapters(folder):
    with pytest.raises(ConvertError, match="r_max is None"):
        read_peft(folder, SHAPE, None)
    model = Slava(dataclasses.replace(tiny(), adapter=None))
    with pytest.raises(ConvertError, match="no adapters"):
        lora_of(model, {})

"""Llamas built small, and causal language models loaded from folders."""

import pytest
import torch

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import CausalLM, Llama
from stillhouse.sources.text import trained_tokenizer

FACTS = Facts("language", (16,), 48)


@pytest.fixture
def folder(tmp_path):
    """A saved model with its tokenizer."""
    tokenizer = trained_tokenizer(["low wine and high wine " * 40], 300)
    torch.manual_seed(0)
    network = Llama(width=16, layers=1, heads=2).build(Facts("language", (16,), 300, tokenizer=tokenizer))
    network.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", network, tokenizer


def test_llama_fits_the_data():
    network = Llama(width=24, layers=3, heads=2).build(FACTS)
    assert network(input_ids=torch.arange(10)[None]).logits.shape == (1, 10, 48)
    assert network.config.intermediate_size == 64
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert len(network.model.layers) == 3


def test_llama_sees_no_later_token():
    network = Llama(width=16, layers=2, heads=2).build(FACTS)
    ids = torch.arange(12)[None]
    changed = ids.clone()
    changed[0, 8:] = 0
    assert torch.equal(network(input_ids=ids).logits[:, :8], network(input_ids=changed).logits[:, :8])


def test_llama_needs_text_and_even_heads():
    with pytest.raises(StillhouseError, match="reads text"):
        Llama().build(Facts("classification", (1, 8, 8), 10))
    with pytest.raises(ValueError, match="even width"):
        Llama(width=18, heads=2)


def test_a_folder_gives_its_weights(folder):
    path, network, tokenizer = folder
    loaded = CausalLM(path=str(path)).build(Facts("language", (16,), 300, tokenizer=tokenizer))
    ids = torch.arange(20)[None]
    assert torch.equal(loaded(input_ids=ids).logits, network(input_ids=ids).logits)


def test_a_folder_is_found_under_the_root(folder, monkeypatch):
    path, _, _ = folder
    monkeypatch.setenv("STILLHOUSE_ROOT", str(path.parent))
    assert CausalLM(path="model").build(Facts("language", (16,), 300)).config.vocab_size == 300


def test_another_vocabulary_is_refused(folder):
    path, _, _ = folder
    other = trained_tokenizer(["barley and water " * 40], 300)
    with pytest.raises(StillhouseError, match="reads another vocabulary"):
        CausalLM(path=str(path)).build(Facts("language", (16,), 300, tokenizer=other))


def test_the_width_can_follow_the_data(folder):
    path, network, _ = folder
    cut = CausalLM(path=str(path), width="data").build(Facts("language", (16,), 290))
    ids = torch.arange(20)[None]
    assert cut(input_ids=ids).logits.shape == (1, 20, 290)
    torch.testing.assert_close(cut(input_ids=ids).logits, network(input_ids=ids).logits[..., :290])


def test_what_cannot_be_loaded_is_told(folder, monkeypatch, tmp_path):
    path, network, _ = folder
    with pytest.raises(StillhouseError, match="no folder"):
        CausalLM(path="absent").build(FACTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StillhouseError, match="Check the name and the connection"):
        CausalLM(path="hub:stillhouse/absent").build(FACTS)
    torch.save(network.state_dict(), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(StillhouseError, match="only safetensors"):
        CausalLM(path=str(path)).build(FACTS)


def test_code_of_a_model_is_not_run_unasked(folder, tmp_path):
    import json

    path, _, _ = folder
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLM"}}
    (path / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (path / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(StillhouseError, match="trust_remote_code: true"):
        CausalLM(path=str(path)).build(FACTS)
    assert not ran.exists()

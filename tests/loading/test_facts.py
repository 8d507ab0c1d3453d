"""Reading config.json: what is known is checked, what is not is left alone, nothing is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from espalier.errors import CheckpointError, NotBuilt
from espalier.loading.facts import (
    MAX_BYTES,
    context_length,
    model_facts,
    read_config,
    read_facts,
    require,
    windows,
)

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def folder_with(folder: Path, config: object, generation: object = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_the_facts_of_a_llama(tmp_path: Path) -> None:
    facts = read_facts(folder_with(tmp_path, LLAMA, {"eos_token_id": [2, 7], "bos_token_id": 1}))
    assert facts.architecture == "LlamaForCausalLM"
    assert (facts.layers, facts.query_heads, facts.key_value_heads, facts.head_size) == (
        2,
        4,
        2,
        16,
    )
    assert (facts.context_length, facts.dtype, facts.eos) == (512, "bfloat16", (2, 7))
    assert facts.windows == (None, None)


@pytest.mark.parametrize("key", ["auto_map", "_attn_implementation_internal", "_name_or_path"])
def test_keys_that_could_run_code_are_dropped(tmp_path: Path, key: str) -> None:
    config = read_config(folder_with(tmp_path, {**LLAMA, key: {"AutoModel": "evil.Model"}}))
    assert key not in config
    assert config["vocab_size"] == 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"hidden_size": True}, "hidden_size = True"),
        ({"hidden_size": 1e3}, r"hidden_size = 1000\.0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1"),
        ({"num_hidden_layers": None}, "'num_hidden_layers' is missing"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads = 3"),
        ({"hidden_size": 66}, "hidden_size = 66 is not a multiple"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps = 'small'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1"),
        ({"architectures": "LlamaForCausalLM"}, "architectures = 'LlamaForCausalLM'"),
        ({"architectures": []}, "architectures"),
        ({"torch_dtype": "int8"}, "dtype = 'int8'"),
        ({"layer_types": "full"}, "layer_types = 'full'"),
    ],
)
def test_a_damaged_field_is_named_with_its_file(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises((CheckpointError, NotBuilt), match=rf"config\.json: .*{said}"):
        read_config(folder_with(tmp_path, {**LLAMA, **change}))


@pytest.mark.parametrize("text", ["", "{", '{"a": ', "[1]", "null", "[" * 100_000])
def test_what_is_not_a_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_huge_config_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "padding": "x" * MAX_BYTES}))
    with pytest.raises(CheckpointError, match="larger than"):
        read_config(tmp_path)


def test_no_config_gives_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file\n  hint: give the folder"):
        read_config(tmp_path)


def test_a_key_that_the_model_needs_and_the_file_lacks_is_named(tmp_path: Path) -> None:
    config = read_config(folder_with(tmp_path, LLAMA))
    with pytest.raises(CheckpointError, match=r"config\.json: 'rope_scale_of_mine' is missing"):
        config["rope_scale_of_mine"]
    assert config.get("rope_scale_of_mine") is None


def test_what_is_not_supported_is_refused_by_name() -> None:
    require({"hidden_act": "silu", "mlp_bias": None}, hidden_act="silu", mlp_bias=False, other=1)
    with pytest.raises(NotBuilt, match=r"hidden_act = 'gelu' .*\n  hint: only 'silu' is"):
        require({"hidden_act": "gelu"}, hidden_act="silu")


@pytest.mark.parametrize("eos", ["</s>", 1.5, [1, "x"], True])
def test_an_end_token_that_is_no_token_is_refused(eos: object) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id"):
        model_facts({**LLAMA, "eos_token_id": eos})


def test_a_wrapper_served_for_text_alone_gives_its_text_model(tmp_path: Path) -> None:
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "eos_token_id": [1, 106],
        "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 34,
            "sliding_window": 1024,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "vision_config": {"hidden_size": 1152},
    }
    facts = read_facts(folder_with(tmp_path, config))
    assert facts.architecture == "Gemma3ForCausalLM"
    assert (facts.vocabulary, facts.head_size, facts.context_length) == (262_208, 256, 131_072)
    assert facts.eos == (1, 106)
    assert facts.windows[:7] == (1024, 1024, 1024, 1024, 1024, None, 1024)
    assert facts.tied
    assert facts.dtype == "bfloat16"


def test_other_wrappers_are_refused_by_name(tmp_path: Path) -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": LLAMA}
    with pytest.raises(NotBuilt, match="LlavaForConditionalGeneration wraps a text model"):
        read_config(folder_with(tmp_path, config))


CONFIGS = {
    "mistral": transformers.MistralConfig(num_hidden_layers=4, sliding_window=32),
    "mistral without": transformers.MistralConfig(num_hidden_layers=4, sliding_window=None),
    "gemma2": transformers.Gemma2Config(num_hidden_layers=5),
    "gemma3": transformers.Gemma3TextConfig(num_hidden_layers=13),
    "gpt_oss": transformers.GptOssConfig(num_hidden_layers=5),
    "qwen2 off": transformers.Qwen2Config(num_hidden_layers=4, sliding_window=16),
    "qwen2 on": transformers.Qwen2Config(
        num_hidden_layers=4, sliding_window=16, use_sliding_window=True, max_window_layers=1
    ),
    "phi3": transformers.Phi3Config(num_hidden_layers=3, sliding_window=2047),
}


@pytest.mark.parametrize("old", [False, True], ids=["new file", "old file"])
@pytest.mark.parametrize("family", CONFIGS)
def test_windows_are_those_of_transformers(family: str, old: bool) -> None:
    theirs = CONFIGS[family]
    hf = theirs.to_dict()
    kinds = hf.get("layer_types") or ["sliding_attention"] * theirs.num_hidden_layers
    expected = tuple(
        theirs.sliding_window if kind == "sliding_attention" else None for kind in kinds
    )
    if old:
        hf.pop("layer_types", None)
    assert windows(hf) == expected


def test_layer_types_must_fit_the_layers() -> None:
    with pytest.raises(CheckpointError, match="names 1 layers"):
        windows({"num_hidden_layers": 2, "sliding_window": 4, "layer_types": ["full_attention"]})
    with pytest.raises(NotBuilt, match="'chunked_attention'"):
        windows({"num_hidden_layers": 1, "sliding_window": 4, "layer_types": ["chunked_attention"]})


@pytest.mark.parametrize(
    ("positions", "rope", "length"),
    [
        (4096, {}, 4096),
        (4096, {"type": "linear", "factor": 4}, 16_384),
        (131_072, {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                   "original_max_position_embeddings": 8192}, 131_072),
        (32_768, {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32_768}, 131_072),
        (131_072, {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32_768},
         131_072),
    ],
)  # fmt: skip
def test_the_context_takes_rotary_scaling_into_account(
    positions: int, rope: dict[str, Any], length: int
) -> None:
    assert context_length({"max_position_embeddings": positions, "rope_scaling": rope}) == length


def test_experts_and_the_layers_without_them() -> None:
    hf = transformers.Qwen3MoeConfig(num_hidden_layers=4, mlp_only_layers=[2]).to_dict()
    facts = model_facts(hf)
    assert (facts.experts, facts.experts_per_token, facts.intermediate) == (128, 8, 768)
    assert (facts.dense_layers, facts.dense_intermediate) == ((2,), 6144)

"""Folders that look like checkpoints to whoever reads configs and headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from espalier.loading.facts import ModelFacts, model_facts

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
TINY: dict[str, Any] = {
    **LLAMA_8B,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}


def facts_of(config: dict[str, Any]) -> ModelFacts:
    return model_facts(config)


def folder_of(folder: Path, config: dict[str, Any], weights: int | None = None) -> Path:
    """With a file of so many bytes of bfloat16 weights, if any; it takes no room on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if weights is not None:
        header = json.dumps(
            {"w": {"dtype": "BF16", "shape": [weights // 2], "data_offsets": [0, weights]}}
        ).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + weights)
    return folder

"""The models we have written, by the architecture that a checkpoint names; others are generic.

A family is a file that stands alone: a config with `read(hf)`, and a class made of it and a Build.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, cast, get_type_hints

from espalier.errors import CheckpointError
from espalier.layers.build import Build
from espalier.models.base import CausalLM
from espalier.registry import Registry


class ModelClass(Protocol):
    """A family's class. The type of its `config` has `read(hf)`, which makes one of config.json."""

    def __call__(self, config: Any, build: Build) -> CausalLM: ...


MODELS: Registry[ModelClass] = Registry(
    "model architecture",
    {
        "Gemma2ForCausalLM": "espalier.models.gemma2:Gemma2ForCausalLM",
        "Gemma3ForCausalLM": "espalier.models.gemma3:Gemma3ForCausalLM",
        "LlamaForCausalLM": "espalier.models.llama:LlamaForCausalLM",
        "MistralForCausalLM": "espalier.models.mistral:MistralForCausalLM",
        "MixtralForCausalLM": "espalier.models.mixtral:MixtralForCausalLM",
        "Phi3ForCausalLM": "espalier.models.phi3:Phi3ForCausalLM",
        "Qwen2ForCausalLM": "espalier.models.qwen2:Qwen2ForCausalLM",
        "Qwen3ForCausalLM": "espalier.models.qwen3:Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM": "espalier.models.qwen3_moe:Qwen3MoeForCausalLM",
    },
)
# Any other architecture: refused by name, unless transformers' class can be served as it is.
GENERIC: Registry[ModelClass] = Registry(
    "way to serve other architectures", {"generic": "espalier.models.generic:GenericForCausalLM"}
)


def build_model(hf: Mapping[str, Any], build: Build, context_length: int) -> CausalLM:
    """The model that a config.json describes, its weights still to be loaded.

    `context_length`: how many positions requests may use here; some rotary embeddings are fixed by
    it. Raises NotBuilt, by name, for what we cannot serve.
    """
    names = hf.get("architectures") or ()
    if not names:
        raise CheckpointError(
            "config.json: architectures is missing", hint="is this a whole checkpoint's config?"
        )
    cls = MODELS.get(names[0]) if names[0] in MODELS.names() else GENERIC.get("generic")
    config_type = get_type_hints(cast(Any, cls).__init__)["config"]
    return cls(config_type.read(hf), replace(build, context_length=context_length))

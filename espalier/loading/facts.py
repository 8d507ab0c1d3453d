"""A checkpoint's config.json: read and checked by us, and what the rest of the house needs of it.

A config is data from a stranger: it is never used to import anything (`auto_map` is dropped, and so
are keys with a leading underscore), what is known is checked for type and bounds, and what a model
asks for and the file lacks is an error that names file and field. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espalier.errors import CheckpointError, NotBuilt
from espalier.loading.rope import RopeSettings, rope_settings

__all__ = [
    "ConfigJson",
    "ModelFacts",
    "RopeSettings",
    "model_facts",
    "read_config",
    "read_facts",
    "require",
    "rope_settings",
    "windows",
]

MAX_BYTES = 1 << 20

DROPPED = ("auto_map", "custom_pipelines", "quantization_config_class")
REQUIRED = (
    "architectures",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
# Least and greatest value of the whole numbers that models read; any of them may be null.
COUNTS: Mapping[str, tuple[int, int]] = {
    "hidden_size": (1, 1 << 20),
    "intermediate_size": (1, 1 << 24),
    "moe_intermediate_size": (1, 1 << 24),
    "shared_expert_intermediate_size": (0, 1 << 24),
    "num_hidden_layers": (1, 10_000),
    "num_attention_heads": (1, 1 << 16),
    "num_key_value_heads": (1, 1 << 16),
    "head_dim": (1, 1 << 16),
    "vocab_size": (1, 1 << 26),
    "max_position_embeddings": (1, 1 << 32),
    "original_max_position_embeddings": (1, 1 << 32),
    "sliding_window": (0, 1 << 32),
    "sliding_window_pattern": (1, 10_000),
    "max_window_layers": (0, 10_000),
    "num_experts": (1, 1 << 16),
    "num_local_experts": (1, 1 << 16),
    "num_experts_per_tok": (1, 1 << 16),
    "decoder_sparse_step": (1, 10_000),
}
FLAGS = (
    "attention_bias",
    "mlp_bias",
    "norm_topk_prob",
    "tie_word_embeddings",
    "use_sliding_window",
)
NUMBERS = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "layer_norm_eps",
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_theta",
)
DTYPES = ("float32", "float16", "bfloat16")

# Wrappers around a text model that are served for text alone: the text model's own architecture,
# and what its config leaves to defaults (published files of Gemma 3 say only what differs).
TEXT_OF: Mapping[str, str] = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}
TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Gemma3ForCausalLM": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    },
}
TOP_LEVEL = ("eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings")
TOP_LEVEL_DTYPE = ("dtype", "torch_dtype")

# Every so many layers one has full attention; the rest see a window. For files without layer_types.
FULL_EVERY: Mapping[str, int] = {"gemma2": 2, "gpt_oss": 2, "gemma3_text": 6}


class ConfigJson(dict[str, Any]):
    """A checked config.json. Asking for a key that it lacks is the checkpoint's fault."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        super().__init__(values)
        self.source = source

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(f"{self.source}: {key!r} is missing, and the model needs it")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What resolve, the cache and the memory plan need to know of a model."""

    architecture: str
    vocabulary: int
    hidden: int
    intermediate: int  # of one expert, where there are experts
    layers: int
    query_heads: int
    key_value_heads: int
    head_size: int
    context_length: int
    dtype: str = "bfloat16"
    eos: tuple[int, ...] = ()
    bos: int | None = None
    tied: bool = False  # the output head is the embedding
    windows: tuple[int | None, ...] = ()  # by layer; None: sees everything
    experts: int = 0  # 0: none
    experts_per_token: int = 0
    shared_expert: int = 0  # the inner size of experts that every token visits
    dense_layers: tuple[int, ...] = ()  # of a mixture of experts, those without experts
    dense_intermediate: int = 0  # and the inner size of their MLP


def require(hf: Mapping[str, Any], **supported: object) -> None:
    """Refuse a checkpoint that sets one of these to anything else; absent or null is fine."""
    for key, only in supported.items():
        value = hf.get(key)
        if value is not None and value != only:
            raise NotBuilt(
                f"config.json: {key} = {value!r} is not supported here", hint=f"only {only!r} is"
            )


def read_facts(folder: Path) -> ModelFacts:
    """The facts of the checkpoint in `folder`, from config.json and generation_config.json."""
    return model_facts(read_config(folder), read_generation_config(folder))


def read_config(folder: Path) -> ConfigJson:
    """`folder`/config.json, checked; of a wrapper that we know, its text model's."""
    path = folder / "config.json"
    values = _text_model(_read_json(path), str(path))
    values = {key: value for key, value in values.items() if not _is_dropped(key)}
    config = ConfigJson(values, str(path))
    for key in REQUIRED:
        if config.get(key) is None:
            raise CheckpointError(
                f"{path}: {key!r} is missing", hint="is this a model's folder, and whole?"
            )
    _check(config)
    return config


def read_generation_config(folder: Path) -> Mapping[str, Any]:
    """`folder`/generation_config.json, or nothing if there is none."""
    path = folder / "generation_config.json"
    return _read_json(path) if path.exists() else {}


def model_facts(hf: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelFacts:
    """The facts in a config, and in its generation_config (whose end tokens count too)."""
    query_heads = hf["num_attention_heads"]
    experts = hf.get("num_experts") or hf.get("num_local_experts") or 0
    inner = hf.get("intermediate_size") or 4 * hf["hidden_size"]
    dense = _dense_layers(hf) if experts else ()
    return ModelFacts(
        architecture=hf["architectures"][0] if hf.get("architectures") else "",
        vocabulary=hf["vocab_size"],
        hidden=hf["hidden_size"],
        intermediate=(hf.get("moe_intermediate_size") or inner) if experts else inner,
        layers=hf["num_hidden_layers"],
        query_heads=query_heads,
        key_value_heads=hf.get("num_key_value_heads") or query_heads,
        head_size=hf.get("head_dim") or hf["hidden_size"] // query_heads,
        context_length=context_length(hf),
        dtype=str(hf.get("dtype") or hf.get("torch_dtype") or "float32").removeprefix("torch."),
        eos=_ends(hf, generation or {}),
        bos=hf.get("bos_token_id"),
        tied=bool(hf.get("tie_word_embeddings", _is_tied_by_default(hf))),
        windows=windows(hf),
        experts=experts,
        experts_per_token=hf.get("num_experts_per_tok") or 0,
        shared_expert=hf.get("shared_expert_intermediate_size") or 0,
        dense_layers=dense,
        dense_intermediate=inner if dense else 0,
    )


def context_length(hf: Mapping[str, Any]) -> int:
    """The positions a checkpoint can use, its rotary scaling taken into account.

    yarn, longrope and llama3 files give the stretched length as max_position_embeddings, or (a
    common habit with yarn) the one before stretching, which is then multiplied here. `linear` and
    `dynamic` files give the length before.
    """
    said = int(hf.get("max_position_embeddings") or 2048)
    rope = rope_settings(hf)
    if rope.kind in {"linear", "dynamic"} and hf.get("model_type") not in STRETCHED_ALREADY:
        return int(said * max(rope.factor, 1.0))
    if rope.kind in {"yarn", "longrope"} and said == rope.original_context:
        return int(said * max(rope.factor, 1.0))
    return said


STRETCHED_ALREADY = ("gemma3_text", "gemma3")  # `linear`, and yet the stretched length is given


def windows(hf: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The attention window of every layer; None where a token sees all before it."""
    layers = hf["num_hidden_layers"]
    window = hf.get("sliding_window")
    if not window or hf.get("use_sliding_window") is False:
        return (None,) * layers
    kinds = hf.get("layer_types") or _layer_types(hf)
    if len(kinds) != layers:
        raise CheckpointError(
            f"config.json: layer_types names {len(kinds)} layers and num_hidden_layers is {layers}"
        )
    known = {"full_attention": None, "sliding_attention": window}
    for kind in kinds:
        if kind not in known:
            raise NotBuilt(
                f"config.json: layer_types has {kind!r}", hint=f"supported: {', '.join(known)}"
            )
    return tuple(known[kind] for kind in kinds)


def _layer_types(hf: Mapping[str, Any]) -> list[str]:
    layers, model_type = hf["num_hidden_layers"], hf.get("model_type", "")
    every = hf.get("sliding_window_pattern") or FULL_EVERY.get(model_type)
    if every:
        is_full = [(layer + 1) % every == 0 for layer in range(layers)]
    elif "use_sliding_window" in hf:  # Qwen: the first `max_window_layers` see everything
        first = hf.get("max_window_layers")
        is_full = [layer < (layers if first is None else first) for layer in range(layers)]
    else:
        is_full = [False] * layers
    return ["full_attention" if full else "sliding_attention" for full in is_full]


def _dense_layers(hf: Mapping[str, Any]) -> tuple[int, ...]:
    step, listed = hf.get("decoder_sparse_step") or 1, hf.get("mlp_only_layers") or ()
    layers = range(hf["num_hidden_layers"])
    return tuple(layer for layer in layers if layer in listed or (layer + 1) % step)


def _ends(hf: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    found: list[int] = []
    for said in (hf.get("eos_token_id"), generation.get("eos_token_id")):
        for token in said if isinstance(said, list | tuple) else [said]:
            if isinstance(token, bool) or not isinstance(token, int | None):
                raise CheckpointError(
                    f"eos_token_id is {said!r} and not a token, or a list of them"
                )
            if token is not None and token not in found:
                found.append(token)
    return tuple(found)


def _is_tied_by_default(hf: Mapping[str, Any]) -> bool:
    """What transformers takes an absent tie_word_embeddings to mean."""
    return str(hf.get("model_type", "")).startswith("gemma")


def _is_dropped(key: str) -> bool:
    return key.startswith("_") or key in DROPPED


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        hint = "give the folder of a checkpoint, or its name on the hub as org/name"
        raise CheckpointError(f"{path}: no such file", hint=hint) from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        hint = "the file is damaged or cut off; fetch it again"
        raise CheckpointError(f"{path}: is not JSON: {error}", hint=hint) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return values


def _text_model(values: dict[str, Any], source: str) -> dict[str, Any]:
    """A wrapper's text model, where we serve that; others are refused by name."""
    text = values.get("text_config")
    if not isinstance(text, dict):
        return values
    names = values.get("architectures")
    outer = names[0] if isinstance(names, list) and names else "(none)"
    if outer not in TEXT_OF:
        raise NotBuilt(
            f"{source}: {outer} wraps a text model for images or sound, which is not supported",
            hint=f"supported, for text alone: {', '.join(TEXT_OF)}",
        )
    inner = TEXT_OF[outer]
    merged = {**TEXT_DEFAULTS[inner], **{k: v for k, v in text.items() if v is not None}}
    for key in TOP_LEVEL:
        if values.get(key) is not None:
            merged.setdefault(key, values[key])
    for key in TOP_LEVEL_DTYPE:
        if values.get(key) is not None:
            merged[key] = values[key]
    return {**merged, "architectures": [inner]}


def _check(config: ConfigJson) -> None:
    for key, (least, greatest) in COUNTS.items():
        value = config.get(key)
        if value is not None and not (_is_whole(value) and least <= value <= greatest):
            wanted = f"a whole number from {least} to {greatest}"
            raise CheckpointError(f"{config.source}: {key} = {value!r} is not {wanted}")
    for key in FLAGS:
        if not isinstance(config.get(key), bool | None):
            raise CheckpointError(f"{config.source}: {key} = {config[key]!r} is not true or false")
    for key in NUMBERS:
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise CheckpointError(f"{config.source}: {key} = {value!r} is not a number")
    _check_names(config)
    _check_heads(config)


def _check_names(config: ConfigJson) -> None:
    names = config["architectures"]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise CheckpointError(f"{config.source}: architectures = {names!r} is not a list of names")
    kinds = config.get("layer_types")
    if kinds is not None and not isinstance(kinds, list):
        raise CheckpointError(f"{config.source}: layer_types = {kinds!r} is not a list")
    dtype = config.get("dtype") or config.get("torch_dtype")
    if dtype is not None and str(dtype).removeprefix("torch.") not in DTYPES:
        raise NotBuilt(
            f"{config.source}: dtype = {dtype!r} is not supported",
            hint=f"supported: {', '.join(DTYPES)}",
        )


def _check_heads(config: ConfigJson) -> None:
    query = config["num_attention_heads"]
    key_value = config.get("num_key_value_heads") or query
    if query % key_value:
        raise CheckpointError(
            f"{config.source}: num_attention_heads = {query} is not a multiple of "
            f"num_key_value_heads = {key_value}"
        )
    if config.get("head_dim") is None and config["hidden_size"] % query:
        raise CheckpointError(
            f"{config.source}: hidden_size = {config['hidden_size']} is not a multiple of "
            f"num_attention_heads = {query}, and there is no head_dim"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

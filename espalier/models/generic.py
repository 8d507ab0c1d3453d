"""Any decoder-only text model that transformers has and that leaves attention to us.

What is taken from transformers is the class's forward pass. Its configuration is built from our own
filtered copy of config.json, its weights are filled by our loader, its attention is `step.attend`,
and its matrix products and activations are ours, so that no row depends on its batch. No code from a
checkpoint is ever run, and nothing is looked up in the hub: the class is one that transformers lists.

A model is taken on proof, not on its word. When it is built, two tokens go through it, with zeros
for weights (`attention.foreign.Probe`): what every layer asks of attention is read off the call
itself, the mask it wants must be the causal one or a window of it, and not-a-number that is planted
in the first token's attention must reach that token's output and never the second's, so no state or
convolution carries anything from token to token beside attention. Whatever fails is refused by name.

T tokens of the step, D hidden size, N query heads, K key-value heads, H head size, R rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
)
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import MoeModelOutputWithPast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from espalier.attention.base import Heads, Step
from espalier.attention.foreign import PROBING, SERVING, WAY_OUT, Call, Probe
from espalier.errors import CheckpointError, NotBuilt
from espalier.kernels.linear import linear
from espalier.layers.build import Build
from espalier.loading.weights import Names

# Beside private keys: what names code or an implementation, and what the engine decides itself.
DROPPED = frozenset(
    [
        "auto_map",
        "architectures",
        "attn_implementation",
        "dtype",
        "experts_implementation",
        "id2label",
        "kernel_config",
        "label2id",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "quantization_config",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "transformers_weights",
        "use_cache",
        "use_kernels",
    ]
)
LAYER_TYPES = {"full_attention", "sliding_attention"}
ROPE_TYPES = {"default", "linear", "llama3", "yarn", "proportional"}  # the same at any length
# What older checkpoints hold beside weights: frequencies and causal masks.
EXTRAS = (
    ".rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
)
EXPERTS = {"experts.gate_up_proj": ("gate_proj", "up_proj"), "experts.down_proj": ("down_proj",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class GenericConfig:
    model_type: str
    values: Mapping[str, Any]  # fit for the configuration class

    @staticmethod
    def read(hf: Mapping[str, Any]) -> GenericConfig:
        """From the checkpoint's config.json; refuses what transformers has no causal model for."""
        model_type = str(hf.get("model_type", ""))
        architecture, *_ = hf.get("architectures") or [""]
        if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type) != architecture or (
            model_type not in CONFIG_MAPPING
        ):
            raise NotBuilt(
                f"{architecture or 'a model without a named architecture'} of type {model_type!r} "
                "is no decoder-only text model that transformers knows",
                hint=WAY_OUT,
            )
        if hf.get("is_encoder_decoder") or hf.get("per_layer_config"):
            raise NotBuilt(f"{architecture} has an encoder, or layers of different kinds")
        return GenericConfig(model_type=model_type, values=_filtered(hf))


def _filtered(hf: Mapping[str, Any]) -> dict[str, Any]:
    """`hf` without what could name code or an implementation, at any depth."""
    kept = {k: v for k, v in hf.items() if not k.startswith("_") and k not in DROPPED}
    return {k: _filtered(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


class GenericForCausalLM(nn.Module):
    """Its children are those of transformers' module: names of parameters are the checkpoint's."""

    def __init__(self, config: GenericConfig, build: Build) -> None:
        super().__init__()
        if build.group.size > 1:
            raise NotBuilt(
                f"a model of type {config.model_type!r} is not split over ranks",
                hint="use a tensor-parallel size of 1",
            )
        inner = _made(config, build)
        for name, child in inner.named_children():
            self.add_module(name, child)
        head = _head(inner)
        self._heads = Probe(type(inner).__name__).run(inner, head, build.device)
        self._whole, self._head = (inner,), (head,)  # in tuples: not modules of this one
        inner.set_attn_implementation(SERVING)
        self.names = _names(inner)

    def forward(self, step: Step) -> Tensor:
        """Hidden states, [T, D]: one packed row, each token at its own position, without a mask."""
        with _OurOps():
            out = self._whole[0].base_model(
                input_ids=step.tokens_T[None],
                position_ids=step.positions_T[None],
                use_cache=False,
                espalier=_Serving(step, self._heads),
            )
        return out.last_hidden_state[0]

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """By the class's own way: scale, cap and bias are its business."""
        with _OurOps():
            return self._head[0](inputs_embeds=hidden_RD[None]).logits[0].float()

    def heads(self) -> list[Heads]:
        return list(self._heads.values())


@dataclass(frozen=True, slots=True)
class _Serving:
    step: Step
    heads: Mapping[nn.Module, Heads]

    def attend(self, call: Call) -> Tensor:
        return self.step.attend(call.q_TNH, call.k_TKH, call.v_TKH, self.heads[call.module])


class _OurOps(TorchFunctionMode):
    """In place of torch's: what would round a row by where it stands in the batch."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        return OURS.get(func, func)(*args, **(kwargs or {}))


# Arguments are called as torch calls them.
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    """By our own rows. One output alone would be a dot product, with an order of its own."""
    outputs = len(weight)
    if outputs == 1:
        weight = F.pad(weight, (0, 0, 0, 1))
    out = linear(input.flatten(0, -2), weight)[:, :outputs].unflatten(0, input.shape[:-1])
    return out if bias is None else out + bias


# Activations by exp, tanh and erf, as in kernels/activation.py, and for the same reason.
def _sigmoid(input: Tensor) -> Tensor:  # noqa: A002
    return (1.0 / (1.0 + torch.exp(-input.float()))).to(input.dtype)


def _silu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002
    del inplace
    x = input.float()
    return (x / (1.0 + torch.exp(-x))).to(input.dtype)


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:  # noqa: A002
    x = input.float()
    if approximate == "tanh":
        inner = torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x)))
    else:
        inner = torch.erf(x * math.sqrt(0.5))
    return (0.5 * x * (1.0 + inner)).to(input.dtype)


OURS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.gelu: _gelu,
    F.silu: _silu,
    torch.sigmoid: _sigmoid,
    Tensor.sigmoid: _sigmoid,
}


def _made(config: GenericConfig, build: Build) -> Any:
    """The module, its parameters zero and its buffers (frequencies and such) as they should be."""
    cls = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    try:
        hf = CONFIG_MAPPING[config.model_type](**config.values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"config.json does not describe a {cls}: {error}") from error
    _check_class(MODEL_FOR_CAUSAL_LM_MAPPING[type(hf)])
    _check_config(cls, hf)
    try:
        with no_init_weights(), build.device:
            model: Any = AutoModelForCausalLM.from_config(
                hf, dtype=build.dtype, attn_implementation=PROBING, experts_implementation="eager"
            )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"config.json does not make a {cls}: {error}") from error
    model.tie_weights()
    model.eval()
    _take_buffers(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(False).zero_()
    return model


def _take_buffers(model: nn.Module) -> None:
    """Make parameters of the buffers that a checkpoint holds, so that the loader fills them too."""
    kept = model.state_dict().keys()
    for name, buffer in list(model.named_buffers()):
        if name in kept:
            outer, _, own = name.rpartition(".")
            module = model.get_submodule(outer)
            delattr(module, own)
            module.register_parameter(own, nn.Parameter(buffer, requires_grad=False))


def _check_config(cls: str, hf: Any) -> None:
    """Refuse what the probe of two tokens could not see."""
    values = hf.to_dict()
    kinds = set(values.get("layer_types") or ()) - LAYER_TYPES
    if kinds:
        raise NotBuilt(f"{cls} has layers of type {', '.join(sorted(kinds))}", hint=WAY_OUT)
    rope = values.get("rope_parameters") or {}
    for numbers in (rope, *(v for v in rope.values() if isinstance(v, Mapping))):
        kind = numbers.get("rope_type", "default")
        if kind not in ROPE_TYPES:
            raise NotBuilt(
                f"{cls} rotates by {kind!r}, whose frequencies depend on the longest in the batch",
                hint=f"supported here: {', '.join(sorted(ROPE_TYPES))}",
            )


def _check_class(cls: Any) -> None:
    """What the class itself says of its state and its attention."""
    if cls._is_stateful:
        raise NotBuilt(f"{cls.__name__} keeps recurrent state beside attention", hint=WAY_OUT)
    if not cls._supports_attention_backend:
        raise NotBuilt(f"{cls.__name__} does not leave its attention to others", hint=WAY_OUT)


class _Given(nn.Module):
    """Stands where the base model does: hidden states are what it is given."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


def _head(model: Any) -> Any:
    """The same model from hidden states on: it shares everything, but has no base."""
    head = copy.copy(model)
    head.__dict__["_modules"] = {**head.__dict__["_modules"], model.base_model_prefix: _Given()}
    return head


def _names(model: Any) -> Names:
    """Parameters keep their names; those that share memory count as the first of them."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = first.setdefault(id(parameter), name)
        if owner != name:
            tied[name] = owner
    real = tuple(first.values())
    return Names(
        tied=tied,
        experts=EXPERTS,
        ignored=tuple(end for end in EXTRAS if not any(name.endswith(end) for name in real)),
    )

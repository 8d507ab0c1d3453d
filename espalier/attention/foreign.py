"""Attention of transformers' models, asked for in their way and answered in ours.

`Probe` finds out what a model asks: two tokens go through it, with zeros for weights, and whatever
its layers ask of attention is noted, or refused by name. Imported only for the generic model.

T tokens of the step, D hidden size, N query heads, K key-value heads, H head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface

from espalier.attention.base import Heads
from espalier.errors import NotBuilt

SERVING, PROBING = "espalier", "espalier-probe"  # our names among transformers' attentions
# What a layer may hand to attention beside what is understood: it does not change the result.
HARMLESS = frozenset(
    [
        "cache_position",
        "dropout",
        "espalier",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "use_cache",
    ]
)
PRODUCTS = {
    torch.addmm,
    torch.baddbmm,
    torch.bmm,
    torch.conv1d,
    torch.einsum,
    torch.matmul,
    torch.mm,
    Tensor.__matmul__,
    Tensor.bmm,
    Tensor.matmul,
    Tensor.mm,
    F.scaled_dot_product_attention,
}
FAR = 1 << 30  # a position beyond any window
WAY_OUT = "docs/concepts/models.md says which models are served"


class Rider(Protocol):
    """What rides along through transformers' code to every attention layer."""

    def attend(self, call: Call) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Call:
    """What a layer asks of attention; tensors without transformers' batch of one."""

    module: nn.Module
    q_TNH: Tensor
    k_TKH: Tensor
    v_TKH: Tensor
    mask: Any
    asked: Mapping[str, Any]


def _attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, attention_mask: Any, **asked: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: heads before tokens when called, and after in the result."""
    rider: Rider = asked["espalier"]
    q_TNH, k_TKH, v_TKH = (x[0].transpose(0, 1) for x in (q, k, v))
    return rider.attend(Call(module, q_TNH, k_TKH, v_TKH, attention_mask, asked))[None], None


@dataclass(frozen=True, slots=True)
class Mask:
    """The causal mask, or a window of it."""

    window: int | None


def _mask(*, mask_function: Callable[..., Any], config: Any, **_: Any) -> Mask | None:
    """transformers' mask interface, for the probe: what is the mask that a model makes?

    None if it is not causal: models make masks that no layer of theirs takes, so it is the layer
    that is refused.
    """

    def sees(position: int) -> bool:
        zero, here, there = (torch.tensor(n) for n in (0, FAR, position))
        return bool(mask_function(zero, zero, here, there))

    window = None if sees(0) else int(config.sliding_window or 0)
    start = 0 if window is None else FAR - window
    edge = (window is None, True)
    is_causal = (sees(start), sees(start + 1), sees(FAR), sees(FAR + 1)) == (*edge, True, False)
    return Mask(window) if is_causal else None


AttentionInterface.register(SERVING, _attention)
AttentionInterface.register(PROBING, _attention)
AttentionMaskInterface.register(PROBING, _mask)


class Probe(TorchFunctionMode):
    """Sends two tokens through a model, and notes what it asks of attention.

    All weights are zero, so not-a-number is the only thing that can spread; attention puts it in
    the first token's row.
    """

    def __init__(self, cls: str) -> None:
        super().__init__()
        self.cls = cls
        self.found: dict[nn.Module, Heads] = {}

    def run(self, model: Any, head: Any, device: torch.device) -> dict[nn.Module, Heads]:
        """The attention layers in the order in which they are called."""
        tokens = torch.zeros(1, 2, dtype=torch.int64, device=device)
        positions = torch.arange(2, device=device)[None]
        try:
            with torch.no_grad(), self:
                hidden_12D = model.base_model(
                    input_ids=tokens, position_ids=positions, use_cache=False, espalier=self
                ).last_hidden_state
                logits_12V = head(inputs_embeds=hidden_12D).logits
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise self.refusal(f"cannot run on attention of ours: {error!r}") from error
        for x in (hidden_12D, logits_12V):
            if x.isnan().any(-1).tolist() != [[True, False]]:
                raise self.refusal("carries more from token to token than attention does")
        return self.found

    def refusal(self, why: str) -> NotBuilt:
        return NotBuilt(f"{self.cls} {why}", hint=WAY_OUT)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Products that the generic model does not take over must have nothing to sum."""
        del types
        left = args[0] if args else None
        if func in PRODUCTS and not (isinstance(left, Tensor) and left.shape[-1] == 1):
            raise self.refusal(f"has a product ({func.__name__}) that is rounded by the batch")
        return func(*args, **(kwargs or {}))

    def attend(self, call: Call) -> Tensor:
        """Note one layer, and refuse what it asks for if we do not do it."""
        self._check(call)
        query, size = call.q_TNH.shape[1:]
        self.found[call.module] = Heads(
            layer=len(self.found),
            query=query,
            key_value=call.k_TKH.shape[1],
            size=size,
            scale=float(call.asked.get("scaling") or size**-0.5),
            window=call.mask.window,
            soft_cap=call.asked.get("softcap"),
        )
        out_TNH = torch.zeros_like(call.q_TNH)
        out_TNH[0] = torch.nan
        return out_TNH

    def _check(self, call: Call) -> None:
        if call.module in self.found:
            raise self.refusal("uses a layer twice, and would need its cache twice")
        k, v, tokens = call.k_TKH.shape, call.v_TKH.shape, call.q_TNH.shape[0]
        if k != v or k[0] != tokens or call.q_TNH.shape[2] != k[2] or call.q_TNH.shape[1] % k[1]:
            raise self.refusal(f"has queries of {tuple(call.q_TNH.shape)}, keys {k}, values {v}")
        understood = {"scaling", "sliding_window", "softcap"} | HARMLESS
        for name, value in call.asked.items():
            if name not in understood and value is not None and value is not False:
                raise self.refusal(f"asks for {name!r} in attention")
        if not isinstance(call.mask, Mask):
            raise self.refusal("wants a mask that is not causal")
        window = call.asked.get("sliding_window")
        if window not in {None, call.mask.window}:
            raise self.refusal(f"has a window of {window} and a mask for {call.mask.window}")

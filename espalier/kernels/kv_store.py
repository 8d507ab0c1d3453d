"""Keys and values into the cache's slots, and copies of whole pages.

Shapes: T tokens, S slots (pages times page size), K key-value heads, H head size, C copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from espalier.kernels.op import Case, Op


def kv_store_reference(kv_2SKH: Tensor, k_TKH: Tensor, v_TKH: Tensor, slots_T: Tensor) -> Tensor:
    """Write each token's key and value to its slot, in place; returns the pool.

    `slots` are int64 and different from each other.
    """
    kv_2SKH[0].index_copy_(0, slots_T, k_TKH.to(kv_2SKH.dtype))
    kv_2SKH[1].index_copy_(0, slots_T, v_TKH.to(kv_2SKH.dtype))
    return kv_2SKH


def copy_pages_reference(kv_2SKH: Tensor, from_C: Tensor, to_C: Tensor, page_size: int) -> Tensor:
    """Copy whole pages, in place; all are read before any is written. Returns the pool."""
    pages = kv_2SKH.unflatten(1, (-1, page_size))
    pages[:, to_C.long()] = pages[:, from_C.long()]
    return kv_2SKH


def _store_cases() -> Iterator[Case]:
    for t in (0, 1, 7):
        yield Case(f"{t} tokens", partial(_store_arguments, t), 0.0)


def _store_arguments(t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    slots_T = torch.randperm(24)[:t]
    return torch.randn(2, 24, 2, 16), torch.randn(t, 2, 16), torch.randn(t, 2, 16), slots_T


def _copy_cases() -> Iterator[Case]:
    yield Case("none", partial(_copy_arguments, [], []), 0.0)
    yield Case(
        "a chain: page 1 is read before it is written",
        partial(_copy_arguments, [0, 1], [1, 4]),
        0.0,
    )


def _copy_arguments(source: list[int], target: list[int]) -> tuple[Tensor, Tensor, Tensor, int]:
    from_C, to_C = (torch.tensor(pages, dtype=torch.int32) for pages in (source, target))
    return torch.randn(2, 24, 2, 16), from_C, to_C, 4


kv_store = Op(kv_store_reference, fast={}, cases=_store_cases)
copy_pages = Op(copy_pages_reference, fast={}, cases=_copy_cases)

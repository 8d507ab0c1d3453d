"""Every attention backend against attention written out token by token."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espalier.attention import BACKENDS
from espalier.attention.base import Heads, Layout

QUERY, KEY_VALUE, SIZE = 6, 2, 16


@dataclass(frozen=True)
class Request:
    q_SNH: Tensor
    k_SKH: Tensor
    v_SKH: Tensor

    def __len__(self) -> int:
        return len(self.q_SNH)


def request_of(length: int, dtype: torch.dtype = torch.float32) -> Request:
    shapes = ((QUERY, SIZE), (KEY_VALUE, SIZE), (KEY_VALUE, SIZE))
    return Request(*(torch.randn(length, *shape).to(dtype) for shape in shapes))


def heads_of(window: int | None = None, soft_cap: float | None = None) -> Heads:
    return Heads(0, QUERY, KEY_VALUE, SIZE, scale=0.3, window=window, soft_cap=soft_cap)


def written_out(request: Request, heads: Heads) -> Tensor:
    """Attention of all tokens of a request, one token and head at a time."""
    out = torch.empty(request.q_SNH.shape)
    for at in range(len(request)):
        first = 0 if heads.window is None else max(0, at - heads.window + 1)
        for head in range(heads.query):
            shared = head * heads.key_value // heads.query
            k_SH = request.k_SKH[first : at + 1, shared].float()
            scores = (k_SH @ request.q_SNH[at, head].float()) * heads.scale
            if heads.soft_cap is not None:
                scores = heads.soft_cap * torch.tanh(scores / heads.soft_cap)
            out[at, head] = scores.softmax(0) @ request.v_SKH[first : at + 1, shared].float()
    return out


class Cache:
    """One backend over pools that begin as not-a-number, its pages in a random order."""

    def __init__(
        self, name: str, *, page_size: int, slots: int = 8192, dtype: torch.dtype = torch.float32
    ) -> None:
        self.page_size = page_size
        self.free = torch.randperm(slots // page_size).tolist()
        pool = torch.full((2, slots, KEY_VALUE, SIZE), torch.nan, dtype=dtype)
        self.backend = BACKENDS.get(name)([pool])
        self.pages: dict[int, list[int]] = {}

    def step(self, chunks: list[tuple[Request, int, int]], heads: Heads) -> list[Tensor]:
        for request, _, end in chunks:
            pages = self.pages.setdefault(id(request), [])
            while len(pages) * self.page_size < end:
                pages.append(self.free.pop())
        tables = [self.pages[id(request)] for request, _, _ in chunks]
        longest = max(map(len, tables))
        tables_CP = torch.tensor([t + [0] * (longest - len(t)) for t in tables], dtype=torch.int32)
        slots, offsets = [], [0]
        for table, (_, start, end) in zip(tables_CP, chunks, strict=True):
            at = torch.arange(start, end)
            slots.append(table[at // self.page_size].long() * self.page_size + at % self.page_size)
            offsets.append(offsets[-1] + end - start)
        starts, ends = [c[1] for c in chunks], [c[2] for c in chunks]
        layout = Layout(offsets, starts, ends, tables_CP, torch.cat(slots), self.page_size)
        q, k, v = (
            torch.cat([x[start:end] for x, start, end in parts])
            for parts in (
                [(r.q_SNH, start, end) for r, start, end in chunks],
                [(r.k_SKH, start, end) for r, start, end in chunks],
                [(r.v_SKH, start, end) for r, start, end in chunks],
            )
        )
        out = self.backend.prepare(layout)(q, k, v, heads)
        return list(out.split([end - start for _, start, end in chunks]))


@pytest.mark.parametrize("name", BACKENDS.names())
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 40, 128])
def test_it_is_attention(name: str, window: int | None, soft_cap: float | None) -> None:
    request, heads = request_of(300), heads_of(window, soft_cap)
    (out,) = Cache(name, page_size=16).step([(request, 0, 300)], heads)
    torch.testing.assert_close(out, written_out(request, heads), atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 419), max_size=6),
    page_size=st.sampled_from([1, 4, 16, 128, 256]),
    window=st.sampled_from([None, 7, 128, 200]),
    strangers=st.lists(st.integers(1, 300), max_size=3),
    threads=st.sampled_from([1, 2]),
)
def test_a_token_has_the_same_bits_however_its_text_was_cut(
    cuts: list[int],
    page_size: int,
    window: int | None,
    strangers: list[int],
    threads: int,
) -> None:
    torch.manual_seed(0)
    request, heads = request_of(420), heads_of(window)
    (expected,) = Cache("reference", page_size=16).step([(request, 0, 420)], heads)
    edges = [0, *sorted(set(cuts)), 420]
    torch.set_num_threads(threads)
    cache, parts = Cache("reference", page_size=page_size), []
    for start, end in pairwise(edges):
        others = [(request_of(length), 0, length) for length in strangers]
        parts.append(cache.step([*others, (request, start, end)], heads)[-1])
        kept = {id(request): cache.pages[id(request)]}
        for pages in (p for key, p in cache.pages.items() if key not in kept):
            cache.free += pages
        cache.pages = kept
    torch.set_num_threads(1)
    assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decoding_has_the_same_bits_alone_and_among_others(dtype: torch.dtype) -> None:
    requests = [request_of(length, dtype) for length in (1, 5, 127, 128, 129, 256, 300)]
    heads = heads_of()
    together = Cache("reference", page_size=16, dtype=dtype)
    for request in requests:
        together.step([(request, 0, len(request) - 1)], heads) if len(request) > 1 else None
    batch = [(request, len(request) - 1, len(request)) for request in requests]
    outs = together.step(batch, heads)
    for out, request in zip(outs, requests, strict=True):
        alone = Cache("reference", page_size=16, dtype=dtype)
        (whole,) = alone.step([(request, 0, len(request))], heads)
        assert torch.equal(out[-1], whole[-1])
        torch.testing.assert_close(
            out[-1].float(), written_out(request, heads)[-1], atol=2e-2, rtol=2e-2
        )


def test_pages_that_a_window_has_left_are_not_read() -> None:
    request, heads = request_of(200), heads_of(window=20)
    cache = Cache("reference", page_size=16)
    cache.step([(request, 0, 190)], heads)
    pages = cache.pages[id(request)]
    gone = cache.free[-1]  # never written: not-a-number
    pages[:10] = [gone] * 10
    (out,) = cache.step([(request, 190, 200)], heads)
    torch.testing.assert_close(out, written_out(request, heads)[190:], atol=1e-5, rtol=1e-5)

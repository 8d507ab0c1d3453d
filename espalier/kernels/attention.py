"""Attention over paged keys and values, in blocks at absolute positions.

A token's output is a function of its query and of the keys and values before it, to the last bit:
neither chunking, batching, sharing nor the page size change it. Keys are taken in blocks of BLOCK
positions that start at multiples of BLOCK, and merged in ascending order, in float32; a block of
which a token sees nothing leaves its running values as they are. So it does not matter which other
tokens stand in the same tile of queries, and tiles can be cut as is best for the machine.

Shapes: T tokens, C chunks, P pages of the longest, A tiles, W tokens of a tile, N query heads,
K key-value heads, G = N / K, R rows of a tile (its heads by tokens, padded), S block, H head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from espalier.kernels.op import Case, Op

BLOCK = 128
WIDTHS = (1, 8, 64)  # a chunk is cut in tiles of the least of these that holds it, or the last
ROWS = 8  # as in `linear`: a tile of full rows has one path through the library


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where a step's tokens stand: chunk c is positions [starts[c], ends[c]) of its request.

    Position p of chunk c is in slot `tables_CP[c, p // page_size] * page_size + p % page_size`.
    """

    starts: Sequence[int]
    ends: Sequence[int]
    tables_CP: Tensor
    page_size: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Queries of one width, most blocks first, and the slots of the keys that each block reads.

    Of the tiles the first `len(slots[j])` have a j-th block; it starts at `blocks_A + j * BLOCK`.
    """

    tokens_AW: Tensor  # which of the step's tokens; a last tile repeats its last one
    positions_AW: Tensor
    blocks_A: Tensor  # where the first block starts
    slots: tuple[Tensor, ...]  # by j: [A', S]
    own_U: Tensor  # of the A * W places those that are no repetition,
    targets_U: Tensor  # and the token of each


def tiles_of(chunks: Chunks, window: int | None) -> list[Tiles]:
    """The step's queries in tiles, those of one width together."""
    first_token = 0
    by_width: dict[int, list[list[int]]] = {width: [] for width in WIDTHS}
    for chunk, (start, end) in enumerate(zip(chunks.starts, chunks.ends, strict=True)):
        width = next((width for width in WIDTHS if end - start <= width), WIDTHS[-1])
        for position in range(start, end, width):
            count = min(width, end - position)
            low = 0 if window is None else max(0, position - window + 1)
            token = first_token + position - start
            by_width[width].append([chunk, token, position, count, low])
        first_token += end - start
    return [_tiles(chunks, width, rows) for width, rows in by_width.items() if rows]


def _tiles(chunks: Chunks, width: int, rows: list[list[int]]) -> Tiles:
    """`rows` are chunk, first token, its position, number of tokens, least position seen."""
    rows.sort(key=_num_blocks, reverse=True)
    device = chunks.tables_CP.device
    chunk_A, token_A, position_A, count_A, low_A = torch.tensor(rows, device=device).T
    within_AW = torch.arange(width, device=device).minimum(count_A[:, None] - 1)
    own_AW = torch.arange(width, device=device) < count_A[:, None]
    tokens_AW = token_A[:, None] + within_AW
    blocks_A = low_A // BLOCK * BLOCK
    # What no token of the tile sees is not read: such a slot may hold another request's numbers,
    # or none. Its place is filled with one that is seen, and hidden.
    high_A = position_A + count_A - 1
    counts = [_num_blocks(row) for row in rows]
    slots = []
    for block in range(counts[0]):
        active = sum(count > block for count in counts)
        at_AS = blocks_A[:active, None] + torch.arange(BLOCK, device=device) + block * BLOCK
        at_AS = at_AS.maximum(low_A[:active, None]).minimum(high_A[:active, None])
        pages_AS = chunks.tables_CP[chunk_A[:active, None], at_AS // chunks.page_size].long()
        slots.append(pages_AS * chunks.page_size + at_AS % chunks.page_size)
    return Tiles(
        tokens_AW=tokens_AW,
        positions_AW=position_A[:, None] + within_AW,
        blocks_A=blocks_A,
        slots=tuple(slots),
        own_U=own_AW.flatten().nonzero().flatten(),
        targets_U=tokens_AW[own_AW],
    )


def _num_blocks(row: list[int]) -> int:
    _, _, position, count, low = row
    return (position + count - 1) // BLOCK - low // BLOCK + 1


def paged_attention_reference(
    q_TNH: Tensor,
    kv_2SKH: Tensor,
    tiles: Sequence[Tiles],
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    """Each token's attention over the keys at its position and before, within its window.

    Query head n reads key-value head n // G. Scores become `soft_cap * tanh(score / soft_cap)`.
    """
    out_TNH = torch.empty_like(q_TNH)
    for group in tiles:
        q_AKRH, positions_AR = _rows(q_TNH, group, kv_2SKH.shape[2])
        out_AKRH = _attend(q_AKRH * scale, positions_AR, kv_2SKH, group, window, soft_cap)
        _put(out_AKRH, group, out_TNH)
    return out_TNH


def _attend(
    q_AKRH: Tensor,
    positions_AR: Tensor,
    kv_2SKH: Tensor,
    tiles: Tiles,
    window: int | None,
    soft_cap: float | None,
) -> Tensor:
    best = q_AKRH.new_full((*q_AKRH.shape[:3], 1), -torch.inf)
    total = torch.zeros_like(best)
    out = torch.zeros_like(q_AKRH)
    for block, slots_AS in enumerate(tiles.slots):
        active = len(slots_AS)
        k_AKSH, v_AKSH = _gather(kv_2SKH, slots_AS)
        scores = q_AKRH[:active] @ k_AKSH.transpose(2, 3)
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        starts_A = tiles.blocks_A[:active] + block * BLOCK
        hidden_ARS = _hidden(positions_AR[:active], starts_A, window)
        scores.masked_fill_(hidden_ARS[:, None], -torch.inf)
        _merge(scores, v_AKSH, best[:active], total[:active], out[:active])
    return out.div_(total)


def _rows(q_TNH: Tensor, tiles: Tiles, key_value: int) -> tuple[Tensor, Tensor]:
    """Each tile's queries as full rows in float32 by key-value head, and the rows' positions."""
    q_AWKGH = q_TNH[tiles.tokens_AW].float().unflatten(2, (key_value, -1))
    q_AKRH = q_AWKGH.permute(0, 2, 3, 1, 4).flatten(2, 3)
    rows = q_AKRH.shape[2]
    q_AKRH = F.pad(q_AKRH, (0, 0, 0, -rows % ROWS))
    tokens_R = torch.arange(q_AKRH.shape[2], device=q_TNH.device) % tiles.tokens_AW.shape[1]
    return q_AKRH, tiles.positions_AW[:, tokens_R]


def _put(out_AKRH: Tensor, tiles: Tiles, out_TNH: Tensor) -> None:
    """The rows of `_rows` back to their tokens, without padding and repetitions."""
    width = tiles.tokens_AW.shape[1]
    group = out_TNH.shape[1] // out_AKRH.shape[1]
    out_AKGWH = out_AKRH[:, :, : group * width].unflatten(2, (group, width))
    places = out_AKGWH.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)
    out_TNH[tiles.targets_U] = places[tiles.own_U].to(out_TNH.dtype)


def _gather(kv_2SKH: Tensor, slots_AS: Tensor) -> tuple[Tensor, Tensor]:
    k_AKSH, v_AKSH = kv_2SKH[:, slots_AS].transpose(2, 3).float().contiguous()
    return k_AKSH, v_AKSH


def _hidden(positions_AR: Tensor, starts_A: Tensor, window: int | None) -> Tensor:
    """Which keys of the block a row does not see: those after it, and those before its window."""
    at_A1S = (starts_A[:, None] + torch.arange(BLOCK, device=starts_A.device))[:, None]
    hidden_ARS = at_A1S > positions_AR[:, :, None]
    if window is not None:
        hidden_ARS |= at_A1S <= positions_AR[:, :, None] - window
    return hidden_ARS


def _merge(scores: Tensor, v_AKSH: Tensor, best: Tensor, total: Tensor, out: Tensor) -> None:
    """Take one block into the running maximum, sum and output, in place.

    A row that sees nothing of it has scores of -inf: its maximum stays, so it is scaled by one and
    nothing is added; while it has seen nothing at all, zero stands in for the maximum.
    """
    better = torch.maximum(best, scores.amax(dim=-1, keepdim=True))
    origin = better.masked_fill(better == -torch.inf, 0.0)
    weights = scores.sub_(origin).exp_()
    shrink = torch.exp(best - origin)
    total.mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
    out.mul_(shrink).add_(weights @ v_AKSH)
    best.copy_(better)


def _cases() -> Iterator[Case]:
    steps = {"decode": ([5, 130, 300], [6, 131, 301]), "mixed": ([0, 200, 7], [90, 205, 8])}
    for name, (starts, ends) in steps.items():
        for window, soft_cap in ((None, None), (40, None), (None, 20.0)):
            case = partial(_arguments, starts, ends, window, soft_cap)
            yield Case(f"{name}, window {window}, soft cap {soft_cap}", case, 1e-5)


def _arguments(
    starts: list[int], ends: list[int], window: int | None, soft_cap: float | None
) -> tuple[Tensor, Tensor, list[Tiles], float, int | None, float | None]:
    page_size, pages = 16, -(-max(ends) // 16)
    tables_CP = torch.randperm(len(ends) * pages, dtype=torch.int32).view(len(ends), pages)
    tiles = tiles_of(Chunks(starts, ends, tables_CP, page_size), window)
    tokens = sum(ends) - sum(starts)
    kv_2SKH = torch.randn(2, tables_CP.numel() * page_size, 2, 32)
    return torch.randn(tokens, 6, 32), kv_2SKH, tiles, 32**-0.5, window, soft_cap


paged_attention = Op(paged_attention_reference, fast={}, cases=_cases)

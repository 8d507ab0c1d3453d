"""The arithmetic of choosing tokens: counted noise, the race, and what top-k, top-p, min-p keep.

Noise is a pure function of (seed, sample, position, token): a row's key is two words of
Philox4x32-10, and a token's word mixes its id with that key. Only 32-bit integer arithmetic is
used, written here in int64 with masks, so that C++ and Triton repeat it bit for bit.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from espalier.kernels.op import Case, Op

WORD = 0xFFFFFFFF
PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_STEPS = (0x9E3779B9, 0xBB67AE85)
LARGEST_FLOAT_BELOW_ONE = 1 - 2**-24
RACED_AT_ONCE = 1 << 20  # weights; bounds the noise's memory, and stays near the cache
LOOKS = (1024, 16384)  # a nucleus is rarely larger; sorting a vocabulary costs ten times more


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 of four counter words and two key words, each an int64 below 2**32."""
    a, b, c, d = counter
    k, m = key
    for _ in range(PHILOX_ROUNDS):
        # A product below 2**64 wraps in int64; its two words are right all the same.
        left, right = a * PHILOX_MULTIPLIERS[0], c * PHILOX_MULTIPLIERS[1]
        a, b, c, d = (
            ((right >> 32) & WORD) ^ b ^ k,
            right & WORD,
            ((left >> 32) & WORD) ^ d ^ m,
            left & WORD,
        )
        k, m = (k + PHILOX_STEPS[0]) & WORD, (m + PHILOX_STEPS[1]) & WORD
    return a, b, c, d


def row_keys(seeds_R: Tensor, samples_R: Tensor, positions_R: Tensor) -> Tensor:
    """[R, 2] words, a row's key; a seed is 64 bits held in an int64, whatever its sign."""
    none = torch.zeros_like(seeds_R)
    counter = (positions_R & WORD, samples_R & WORD, none, none)
    first, second, _, _ = philox(counter, (seeds_R & WORD, (seeds_R >> 32) & WORD))
    return torch.stack((first, second), dim=-1)


def mixed(words: Tensor) -> Tensor:
    """Ellis's `lowbias32`: a bijection of 32-bit words that spreads every bit to all."""
    words = ((words ^ (words >> 16)) * 0x7FEB352D) & WORD
    words = ((words ^ (words >> 15)) * 0x846CA68B) & WORD
    return words ^ (words >> 16)


def noise(keys_R2: Tensor, tokens_V: Tensor) -> Tensor:
    """[R, V] words, one for each token of each row."""
    first_R1, second_R1 = keys_R2[:, :1], keys_R2[:, 1:]
    return mixed(mixed(tokens_V ^ first_R1) ^ second_R1)


def exponential(words: Tensor) -> Tensor:
    """Words as draws from the exponential distribution, in float32.

    Small draws win races, and near 0 both u and log1p keep all their digits.
    """
    u = (words.float() + 0.5) * 2.0**-32
    return -torch.log1p(-u.clamp_(max=LARGEST_FLOAT_BELOW_ONE))


def race_reference(weights_RV: Tensor, keys_R2: Tensor) -> Tensor:
    """Draw a token from each row in proportion to its weights: the least of E / weight wins.

    Weights need no common scale; each row's largest is about 1. Ties go to the lowest id.
    """
    num_rows, vocabulary = weights_RV.shape
    tokens_V = torch.arange(vocabulary, device=weights_RV.device)
    block = max(1, RACED_AT_ONCE // vocabulary)
    winners_R = torch.empty(num_rows, dtype=torch.int64, device=weights_RV.device)
    for start in range(0, num_rows, block):
        rows = slice(start, start + block)
        times_BV = exponential(noise(keys_R2[rows], tokens_V)).div_(weights_RV[rows])
        winners_R[rows] = times_BV.argmin(dim=-1)
    return winners_R


def race_row_by_row(weights_RV: Tensor, keys_R2: Tensor) -> Tensor:
    """`race_reference` on a CPU: only tokens that can win take part, and words have 32 bits."""
    winners = []
    for weights_V, (first, second) in zip(weights_RV, keys_R2.tolist(), strict=True):
        runners = weights_V.nonzero().flatten()
        words = _mixed_in_place(runners.numpy().astype(np.uint32) ^ np.uint32(first))
        words ^= np.uint32(second)
        # numpy and torch round a word to the same float32: the nearest.
        draws = torch.from_numpy(_mixed_in_place(words).astype(np.float32))
        times = exponential(draws).div_(weights_V[runners])
        winners.append(int(runners[times.argmin()]))
    return torch.tensor(winners, dtype=torch.int64)


def _mixed_in_place(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """`mixed`, in half the memory; products of uint32 wrap by themselves."""
    words ^= words >> np.uint32(16)
    words *= np.uint32(0x7FEB352D)
    words ^= words >> np.uint32(15)
    words *= np.uint32(0x846CA68B)
    words ^= words >> np.uint32(16)
    return words


def keep_reference(weights_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor, min_p_R: Tensor) -> Tensor:
    """The weights, 0 where a token may not be chosen; a row's largest must be 1.

    Of a row sorted downwards (ties by id) stay the first `top_k` (0: all); of those the shortest
    head with `top_p` of their mass; of those the weights of at least `min_p`.
    """
    sorted_RV, order_RV = weights_RV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(weights_RV.shape[-1], device=weights_RV.device)
    k_R1 = torch.where(top_k_R > 0, top_k_R, weights_RV.shape[-1])[:, None]
    sorted_RV = torch.where(rank_V < k_R1, sorted_RV, 0.0)
    mass_RV = sorted_RV.cumsum(dim=-1, dtype=torch.float64)
    wanted_R1 = top_p_R.double()[:, None] * mass_RV[:, -1:]
    in_nucleus_RV = (mass_RV - sorted_RV < wanted_R1) | (top_p_R >= 1)[:, None]
    kept_RV = in_nucleus_RV & (sorted_RV >= min_p_R[:, None])
    kept_RV[:, 0] = True
    return torch.zeros_like(weights_RV).scatter_(-1, order_RV, sorted_RV * kept_RV)


def keep_row_by_row(
    weights_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor, min_p_R: Tensor
) -> Tensor:
    """`keep_reference` without sorting the vocabulary, where waiting for a size costs nothing."""
    out_RV = torch.zeros_like(weights_RV)
    settings = zip(top_k_R.tolist(), top_p_R.double().tolist(), min_p_R.tolist(), strict=True)
    for row, (top_k, top_p, min_p) in enumerate(settings):
        kept = _kept(weights_RV[row], top_k, top_p, min_p)
        out_RV[row, kept] = weights_RV[row, kept]
    return out_RV


def _kept(weights_V: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The ids of one row that stay."""
    if not top_k and top_p >= 1:
        return (weights_V >= min(min_p, 1.0)).nonzero().flatten()
    if top_k:
        ids = largest(weights_V, top_k)
        total = float(weights_V[ids].cumsum(-1, dtype=torch.float64)[-1])
    else:
        total = float(weights_V.cumsum(-1, dtype=torch.float64)[-1])
        ids = _head(weights_V, top_p * total)
    sorted_K = weights_V[ids]
    kept_K = sorted_K >= min_p
    if top_p < 1:
        before_K = sorted_K.cumsum(-1, dtype=torch.float64) - sorted_K
        kept_K &= before_K < top_p * total
    kept_K[:1] = True
    return ids[kept_K]


def _head(weights_V: Tensor, mass: float) -> Tensor:
    """The ids of the largest weights, downwards, so many that they have this mass or are all."""
    for count in LOOKS:
        ids = largest(weights_V, count)
        if float(weights_V[ids].cumsum(-1, dtype=torch.float64)[-1]) >= mass:
            return ids
    return largest(weights_V, len(weights_V))


def largest(values_V: Tensor, count: int) -> Tensor:
    """The ids of the `count` largest values, downwards, ties by the lower id."""
    if count >= len(values_V):
        return values_V.sort(descending=True, stable=True).indices
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=values_V.device)
    # topk may give any of several equal values, but the least of them is certain.
    threshold = values_V.topk(count).values[-1]
    above = (values_V > threshold).nonzero().flatten()
    equal = (values_V == threshold).nonzero().flatten()[: count - len(above)]
    ids = torch.cat((above, equal))
    return ids[values_V[ids].sort(descending=True, stable=True).indices]


def _keep_cases() -> Iterator[Case]:
    for rows, vocabulary in ((1, 7), (5, 300), (3, 5000)):
        yield Case(f"{rows} rows of {vocabulary}", partial(_keep_arguments, rows, vocabulary), 0.0)


def _keep_arguments(rows: int, vocabulary: int) -> tuple[Tensor, ...]:
    logits = (torch.randn(rows, vocabulary) * 3).mul(4).round().div(4)  # with ties
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    top_k = torch.randint(0, 2 * vocabulary, (rows,)) * torch.randint(0, 2, (rows,))
    top_p = torch.rand(rows).clamp(min=0.05) + 0.5 * torch.randint(0, 2, (rows,))
    return weights, top_k, top_p.clamp(max=1.0), torch.rand(rows) * torch.randint(0, 2, (rows,))


def _race_cases() -> Iterator[Case]:
    for rows, vocabulary in ((1, 1), (4, 300), (2, 40_000)):
        yield Case(f"{rows} rows of {vocabulary}", partial(_race_arguments, rows, vocabulary), 0.0)


def _race_arguments(rows: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    logits = torch.randn(rows, vocabulary) * 3
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    weights[weights < 1e-5] = 0.0
    return weights, torch.randint(0, WORD, (rows, 2))


keep = Op(
    keep_reference,
    fast={"row by row": "espalier.kernels.sampling:keep_row_by_row"},
    cases=_keep_cases,
)
race = Op(
    race_reference,
    fast={"row by row": "espalier.kernels.sampling:race_row_by_row"},
    cases=_race_cases,
)

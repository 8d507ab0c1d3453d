"""Counted noise: known answers, independence, and that the race draws what it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from espalier.kernels.sampling import (
    WORD,
    _mixed_in_place,
    exponential,
    keep,
    keep_row_by_row,
    largest,
    noise,
    philox,
    race,
    race_row_by_row,
    row_keys,
)


def words(*values: int) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([value]) for value in values)


# From the test vectors of Random123, where Philox comes from.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD, WORD), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_its_published_words(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    low, high = words(*key)
    assert tuple(int(word) for word in philox(words(*counter), (low, high))) == expected


GOLDEN_KEYS = [[1713891541, 3781805453], [2911745768, 3261828875], [2742942318, 23571551]]
GOLDEN_NOISE = [
    [2304220273, 1701890142, 4258773520, 2872294027],
    [3393327492, 984044766, 2348975744, 3187927850],
    [1531519963, 4189356257, 3173161563, 4115998204],
]


def test_the_noise_never_changes() -> None:
    seeds = torch.tensor([0, 1234567890123456789, -1])
    keys = row_keys(seeds, torch.tensor([0, 1, 7]), torch.tensor([0, 5, 131071]))
    assert keys.tolist() == GOLDEN_KEYS
    found = noise(keys, torch.tensor([0, 1, 2, 128_255]))
    assert found.tolist() == GOLDEN_NOISE


def one_row(seed: int, sample: int, position: int, tokens: int) -> Tensor:
    one = [torch.tensor([value]) for value in (seed, sample, position)]
    return noise(row_keys(*one), torch.arange(tokens))[0]


def test_seed_sample_position_and_token_each_change_the_noise() -> None:
    base = one_row(5, 0, 9, 1000)
    assert len(base.unique()) == 1000
    for other in (one_row(6, 0, 9, 1000), one_row(5, 1, 9, 1000), one_row(5, 0, 10, 1000)):
        assert (base == other).sum() <= 1
    high_half = one_row(5 + (1 << 40), 0, 9, 1000)
    assert (base == high_half).sum() <= 1


def test_every_draw_of_noise_is_positive_and_finite() -> None:
    extremes = exponential(torch.tensor([0, 1, 2**31, WORD - 1, WORD]))
    assert (extremes > 0).all()
    assert (extremes < 20).all()
    assert float(extremes[0]) == pytest.approx(0.5 * 2**-32)


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("moving", ["position", "seed", "sample"])
def test_draws_follow_the_softmax(moving: str) -> None:
    number, vocabulary = 20_000, 40
    logits = torch.randn(vocabulary) * 1.5
    counter = torch.arange(number)
    still = torch.full((number,), 3)
    keys = row_keys(
        *(counter if moving == name else still for name in ("seed", "sample", "position"))
    )
    tokens = race((logits - logits.max()).exp().expand(number, -1), keys)
    counts = torch.bincount(tokens, minlength=vocabulary).double()
    # 39 degrees of freedom: above 80 with a chance of 1 in 10,000.
    assert chi_square(counts, logits.double().softmax(-1)) < 80


@pytest.mark.parametrize("moving", ["position", "seed", "sample"])
def test_neighbouring_draws_are_independent(moving: str) -> None:
    number, vocabulary = 40_000, 6
    counter, still = torch.arange(number), torch.zeros(number, dtype=torch.int64)
    keys = row_keys(
        *(counter if moving == name else still for name in ("seed", "sample", "position"))
    )
    tokens = race(torch.ones(number, vocabulary), keys)
    pairs = torch.bincount(tokens[:-1] * vocabulary + tokens[1:], minlength=vocabulary**2).double()
    # 35 degrees of freedom.
    assert chi_square(pairs, torch.full_like(pairs, 1 / vocabulary**2)) < 75


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should() -> None:
    """One token has half of the mass; 50,000 others share the rest."""
    number, others = 2_000, 50_000
    weights = torch.full((others + 1,), 1 / others)
    weights[0] = 1.0
    keys = row_keys(*(torch.arange(number), torch.zeros(number).long(), torch.ones(number).long()))
    tokens = race(weights.expand(number, -1), keys)
    first = int((tokens == 0).sum())
    assert abs(first - number / 2) < 4 * (number / 4) ** 0.5
    assert len(tokens[tokens != 0].unique()) > 0.97 * (number - first)


def test_a_token_without_weight_is_never_drawn() -> None:
    weights = torch.tensor([[0.0, 1.0, 0.0, 1e-38]]).expand(5000, -1)
    keys = row_keys(torch.arange(5000), torch.zeros(5000).long(), torch.zeros(5000).long())
    assert race(weights, keys).unique().tolist() == [1]


def test_a_row_is_drawn_alike_alone_and_among_others() -> None:
    weights, keys = torch.rand(9, 300_001), torch.randint(0, WORD, (9, 2))
    together = race(weights, keys)
    alone = torch.cat([race(weights[row : row + 1], keys[row : row + 1]) for row in range(9)])
    assert torch.equal(together, alone)


def test_the_largest_come_downwards_and_ties_by_the_lower_id() -> None:
    for count in (0, 1, 5, 30, 64, 100):
        values = torch.randint(0, 6, (64,)).float()
        expected = sorted(range(64), key=lambda at: (-float(values[at]), at))[:count]
        assert largest(values, count).tolist() == expected


@pytest.mark.parametrize("seed", range(8))
def test_both_ways_to_filter_keep_the_same(seed: int) -> None:
    torch.manual_seed(seed)
    for case in keep.cases():
        arguments = case.args()
        assert torch.equal(keep.reference(*arguments), keep_row_by_row(*arguments)), case.name


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_to_race_have_the_same_winner(seed: int) -> None:
    torch.manual_seed(seed)
    for case in race.cases():
        arguments = case.args()
        assert torch.equal(race.reference(*arguments), race_row_by_row(*arguments)), case.name


def test_words_of_32_bits_are_those_of_64() -> None:
    tokens, keys = torch.arange(70_000), torch.tensor([[0xDEADBEEF, 0xFFFFFFFF]])
    words = tokens.numpy().astype(np.uint32) ^ np.uint32(0xDEADBEEF)
    words = _mixed_in_place(_mixed_in_place(words) ^ np.uint32(0xFFFFFFFF))
    expected = noise(keys, tokens)[0]
    assert torch.equal(torch.from_numpy(words.astype(np.int64)), expected)
    rounded = torch.from_numpy(words.astype(np.float32))
    assert torch.equal(exponential(rounded), exponential(expected))


def test_a_wide_nucleus_is_found_whole() -> None:
    weights = torch.rand(2, 60_000).clamp(min=0.5)
    weights[:, 0] = 1.0
    for top_p in (0.01, 0.2, 0.9):
        settings = torch.zeros(2).long(), torch.full((2,), top_p), torch.zeros(2)
        found, expected = keep_row_by_row(weights, *settings), keep.reference(weights, *settings)
        # The total is summed in another order, which may move the edge by one token.
        assert ((found > 0) != (expected > 0)).sum() <= 2

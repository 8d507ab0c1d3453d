"""The sampler against a plain oracle, and what a row may not know: the rows beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espalier.kernels.sampling import keep, race
from espalier.protocol.arrays import ids
from espalier.protocol.sampling import Sampling
from espalier.protocol.step import NOT_A_NUMBER, NOTHING_POSSIBLE, OK, Join
from espalier.sampling.batch import SamplingTable
from espalier.sampling.sampler import Drawn, Masks, Rows, Sampler
from tests.sampling import oracle

VOCABULARY = 50
CPU = torch.device("cpu")
tokens = st.integers(0, VOCABULARY - 1)


class Requests:
    """Requests by slot with their histories, and a sampler over them."""

    def __init__(self, vocabulary: int = VOCABULARY) -> None:
        self.table = SamplingTable(16, vocabulary, CPU)
        self.histories: dict[int, tuple[list[int], list[int]]] = {}
        self.sampler = Sampler(self.table, self.read)

    def read(self, slot: int, start: int, end: int) -> Tensor:
        prompt, output = self.histories[slot]
        return torch.tensor((prompt + output)[start:end], dtype=torch.int64)

    def join(
        self,
        slot: int,
        sampling: Sampling,
        prompt: Sequence[int] = (1,),
        output: Sequence[int] = (),
    ) -> None:
        self.histories[slot] = list(prompt), list(output)
        self.table.join(Join(slot, sampling, len(prompt), None, ""))

    def draw(
        self, logits: Tensor, slots: Sequence[int], masks: Masks | None = None, shift: int = 0
    ) -> Drawn:
        positions = [sum(map(len, self.histories[slot])) + shift for slot in slots]
        return self.sampler(logits, Rows(ids(slots), ids(positions)), masks)

    def processed(self, logits: Tensor, slot: int) -> Tensor:
        rows = Rows(ids([slot]), ids([sum(map(len, self.histories[slot]))]))
        return self.sampler._processed(logits[None], rows, None)[0]


WISHES = {
    "frequency": Sampling(frequency_penalty=0.7),
    "presence": Sampling(presence_penalty=1.1),
    "negative": Sampling(frequency_penalty=-0.5, presence_penalty=-0.3),
    "repetition": Sampling(repetition_penalty=1.4),
    "repetition below one": Sampling(repetition_penalty=0.5),
    "bias": Sampling(bias=((3, 5.0), (7, -100.0), (3, 1.5))),
    "allowed": Sampling(allowed=(4, 9, 11)),
    "minimum not reached": Sampling(min_tokens=9, stop=(2, 5)),
    "minimum reached": Sampling(min_tokens=4, stop=(2, 5)),
    "bad words": Sampling(bad_words=((8,), (6, 3, 20), (3, 21), (1, 2, 3, 4, 5, 6, 7, 8, 9, 22))),
    "bad word over the prompt's end": Sampling(bad_words=((4, 4, 6, 6, 3, 30),)),
    "all of them": Sampling(
        frequency_penalty=0.3,
        presence_penalty=0.2,
        repetition_penalty=1.2,
        bias=((3, 2.0), (10, 1.0)),
        allowed=(2, 3, 5, 6, 10, 20),
        min_tokens=9,
        stop=(2,),
        bad_words=((6, 3, 20),),
    ),
}


@pytest.mark.parametrize("name", WISHES)
def test_every_wish_changes_the_logits_as_the_oracle_does(name: str) -> None:
    prompt, output = [1, 2, 4, 4], [6, 6, 3, 6, 3][:5]
    requests = Requests()
    requests.join(2, WISHES[name], prompt, output)
    logits = torch.randn(VOCABULARY) * 3
    before = logits.clone()
    expected = oracle.processed(logits.double().numpy(), WISHES[name], prompt, output)
    np.testing.assert_allclose(
        requests.processed(logits, 2).numpy(), expected, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(logits, before)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_wishes_together_change_the_logits_as_the_oracle_does(data: st.DataObject) -> None:
    few = st.lists(st.integers(0, 4), max_size=8)
    penalty = st.sampled_from([0.0, 0.5, -1.0])
    sampling = Sampling(
        frequency_penalty=data.draw(penalty),
        presence_penalty=data.draw(penalty),
        repetition_penalty=data.draw(st.sampled_from([1.0, 1.5, 0.7])),
        min_tokens=data.draw(st.integers(0, 9)),
        stop=tuple(data.draw(st.lists(tokens, max_size=3))),
        bias=tuple(data.draw(st.lists(st.tuples(tokens, st.integers(-5, 5)), max_size=3))),
        allowed=tuple(data.draw(st.lists(tokens, max_size=6, unique=True))),
        bad_words=tuple(
            tuple(word)
            for word in data.draw(st.lists(st.lists(st.integers(0, 4), min_size=1), max_size=4))
        ),
    )
    prompt, output = data.draw(few.filter(len)), data.draw(few)
    requests = Requests()
    requests.join(0, sampling, prompt, output)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    logits = torch.randn(VOCABULARY, generator=generator) * 3
    expected = oracle.processed(logits.double().numpy(), sampling, prompt, output)
    np.testing.assert_allclose(
        requests.processed(logits, 0).numpy(), expected, rtol=1e-5, atol=1e-5
    )


FILTERS = {
    "temperature": Sampling(temperature=0.6),
    "hot": Sampling(temperature=3.0),
    "top k": Sampling(top_k=5),
    "top p": Sampling(top_p=0.6),
    "top p of the likeliest": Sampling(top_p=0.01),
    "min p": Sampling(min_p=0.2),
    "all": Sampling(temperature=1.7, top_k=9, top_p=0.8, min_p=0.1),
    "top k of more than there are": Sampling(top_k=1000),
    "greedy": Sampling(temperature=0.0, top_k=3, top_p=0.1),
}


@pytest.mark.parametrize("way", ["reference", "row by row"])
@pytest.mark.parametrize("name", FILTERS)
def test_tokens_are_drawn_with_the_oracles_probabilities(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for op in (keep, race):
        chosen = op.reference if way == "reference" else op.fast.get(way)
        monkeypatch.setattr(op, "_chosen", chosen)
    draws = 4000
    logits = torch.randn(VOCABULARY) * 2
    logits[4] = logits[5]  # ties
    expected = oracle.probabilities(logits.double().numpy(), FILTERS[name])
    requests = Requests()
    requests.join(0, FILTERS[name])
    rows = Rows(ids(np.zeros(draws)), ids(np.arange(draws)))
    found = requests.sampler(logits.expand(draws, -1), rows)
    assert (found.status_R == OK).all()
    counts = np.bincount(found.tokens_R.numpy(), minlength=VOCABULARY)
    assert not counts[expected == 0].any()
    possible = expected > 0
    wanted = expected[possible] * draws
    # Mean of chi-square: its degrees of freedom; deviation: the root of twice that.
    chi = ((counts[possible] - wanted) ** 2 / wanted).sum()
    degrees = int(possible.sum()) - 1
    assert chi <= degrees + 5 * (2 * degrees) ** 0.5


MIXED = [
    Sampling(temperature=0.0),
    Sampling(seed=1),
    Sampling(seed=1, sample=1),
    Sampling(seed=2, top_p=0.9, temperature=1.4),
    Sampling(seed=3, top_k=20, repetition_penalty=1.3),
    Sampling(seed=4, min_p=0.05, frequency_penalty=1.0),
    Sampling(temperature=0.0, bias=((7, 4.0),), presence_penalty=0.5),
    Sampling(seed=2**64 - 1, temperature=0.7, top_k=300, top_p=0.99),
]


@pytest.mark.parametrize("vocabulary", [64, 4099])
def test_a_row_is_the_same_alone_and_among_others_in_any_order(vocabulary: int) -> None:
    requests = Requests(vocabulary)
    for slot, sampling in enumerate(MIXED):
        requests.join(slot, sampling, [1, 2, 3], list(range(slot)))
    logits = torch.randn(len(MIXED), vocabulary) * 2
    masks = np.full((len(MIXED), -(-vocabulary // 32)), -1, np.int32)
    masks[3, 0] = masks[6, 0] = 0x0F0F
    alone = [
        int(requests.draw(logits[slot : slot + 1], [slot], masks[slot : slot + 1]).tokens_R)
        for slot in range(len(MIXED))
    ]
    for _ in range(5):
        order = torch.randperm(len(MIXED)).tolist()
        found = requests.draw(logits[order], order, masks[order]).tokens_R.tolist()
        assert found == [alone[slot] for slot in order]


def test_samples_seeds_and_positions_draw_apart_and_the_same_draws_alike() -> None:
    requests = Requests(4000)
    requests.join(0, Sampling(seed=9))
    requests.join(1, Sampling(seed=9, sample=1))
    requests.join(2, Sampling(seed=10))
    requests.join(3, Sampling(seed=9))
    logits = torch.zeros(4, 4000)
    found = requests.draw(logits, [0, 1, 2, 3]).tokens_R.tolist()
    later = requests.draw(logits[:1], [0], shift=1).tokens_R.tolist()
    assert found[0] == found[3]
    assert len({*found, *later}) == 4


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(top_p=0.9, top_k=3)])
def test_rows_without_numbers_or_tokens_fail_alone(sampling: Sampling) -> None:
    requests = Requests()
    banned = Sampling(allowed=(1, 2), bad_words=((1,), (2,)))
    for slot in range(6):
        requests.join(slot, banned if slot == 4 else sampling)
    logits = torch.randn(6, VOCABULARY)
    expected = requests.draw(logits, range(6)).tokens_R
    logits[1, 40] = torch.nan
    logits[2, 40] = torch.inf
    logits[3] = -torch.inf
    found = requests.draw(logits, range(6))
    wrong = [OK, NOT_A_NUMBER, NOT_A_NUMBER, NOTHING_POSSIBLE, NOTHING_POSSIBLE, OK]
    assert found.status_R.tolist() == wrong
    assert found.tokens_R[[0, 5]].tolist() == expected[[0, 5]].tolist()


def test_what_is_not_a_number_is_seen_under_a_mask_too() -> None:
    requests = Requests()
    requests.join(0, Sampling(allowed=(1, 2)))
    logits = torch.randn(1, VOCABULARY)
    logits[0, 40] = torch.nan
    assert requests.draw(logits, [0]).status_R.tolist() == [NOT_A_NUMBER]


@settings(max_examples=60, deadline=None)
@given(st.sets(tokens), st.booleans())
def test_a_mask_leaves_exactly_its_tokens(allowed: set[int], random: bool) -> None:
    requests = Requests()
    requests.join(0, Sampling(temperature=float(random), seed=len(allowed)))
    mask = np.zeros((1, 2), np.uint32)
    for token in allowed:
        mask[0, token // 32] |= np.uint32(1 << (token % 32))
    found = requests.draw(torch.zeros(1, VOCABULARY), [0], mask.view(np.int32))
    if allowed:
        token = int(found.tokens_R)
        assert token in allowed
        assert random or token == min(allowed)
    else:
        assert found.status_R.tolist() == [NOTHING_POSSIBLE]


def test_ties_go_to_the_lowest_id() -> None:
    requests = Requests()
    requests.join(0, Sampling(temperature=0.0))
    requests.join(1, Sampling(top_k=1))
    logits = torch.zeros(2, VOCABULARY)
    logits[:, [11, 30, 31]] = 2.0
    assert requests.draw(logits, [0, 1]).tokens_R.tolist() == [11, 11]


def test_extreme_temperatures_and_logits_stay_numbers() -> None:
    requests = Requests()
    requests.join(0, Sampling(temperature=1e-30))
    requests.join(1, Sampling(temperature=1e30))
    requests.join(2, Sampling(temperature=0.5, top_p=1e-9))
    logits = torch.randn(3, VOCABULARY) * 1e30
    logits[:, 17] = 3e38
    logits[:, 18] = -3e38
    found = requests.draw(logits, [0, 1, 2])
    assert found.status_R.tolist() == [OK] * 3
    assert found.tokens_R[[0, 2]].tolist() == [17, 17]


def test_stop_tokens_beyond_the_vocabulary_do_no_harm() -> None:
    requests = Requests()
    requests.join(0, Sampling(min_tokens=5, stop=(VOCABULARY + 7, 3)))
    processed = requests.processed(torch.zeros(VOCABULARY), 0)
    assert torch.isinf(processed).nonzero().flatten().tolist() == [3]


def test_a_slot_taken_again_keeps_nothing() -> None:
    requests = Requests()
    requests.join(0, Sampling(temperature=0.0, allowed=(9,)))
    assert int(requests.draw(torch.zeros(1, VOCABULARY), [0]).tokens_R) == 9
    requests.table.leave(0)
    requests.join(0, Sampling(temperature=0.0))
    assert int(requests.draw(torch.zeros(1, VOCABULARY), [0]).tokens_R) == 0
    assert not requests.table.processors

"""Which draws stand, against a loop that reads them one after the other."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espalier.protocol.step import NOT_A_NUMBER, OK
from espalier.sampling.verify import verdict

row = st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from([OK, OK, OK, NOT_A_NUMBER]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(row, min_size=1, max_size=5), max_size=5))
def test_a_draw_stands_while_all_before_it_were_as_drafted(
    chunks: list[list[tuple[int, int, int]]],
) -> None:
    stands, counts, status = [], [], []
    for chunk in chunks:
        going, count = True, 0
        for token, draft, state in chunk:
            going = going and state == OK
            stands.append(going)
            count += going
            going = going and token == draft
        counts.append(count)
        status.append(OK if count else chunk[0][2])
    rows = [(token, draft, state) for chunk in chunks for token, draft, state in chunk]
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
    last = torch.tensor([len(chunk) for chunk in chunks], dtype=torch.int64)
    drafts = columns[:, 1].clone()
    drafts[last.cumsum(0) - 1] = -1
    found = verdict(columns[:, 0], columns[:, 2].int(), drafts, last)
    assert found.stands_R.tolist() == stands
    assert found.counts_S.tolist() == counts
    assert found.status_S.tolist() == status

"""Two ranks give the tokens of one, and go down together."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from espalier.distributed.gloo import RankLost
from espalier.protocol.sampling import Sampling
from espalier.worker.ranked import RankedExecutor
from tests.worker.driver import GREEDY, SPEC, Chunk, Driver, generate, local

PROMPT = [int(token) for token in np.random.default_rng(3).integers(0, 96, 21)]


def test_two_ranks_give_the_tokens_of_one_and_end_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = local()
    ranked = RankedExecutor.start(replace(SPEC, threads=1), 2)
    try:
        for sampling in (GREEDY, Sampling(seed=5, top_p=0.9, frequency_penalty=0.3)):
            expected = generate(alone, PROMPT, 8, sampling)
            assert generate(ranked, PROMPT, 8, sampling, pieces=[8]) == expected
        assert ranked.statistics().cache_bytes < alone.statistics().cache_bytes
        driver = Driver()
        driver.join(0, len(PROMPT))
        masks = np.zeros((1, 3), np.int32)
        masks[0, 1] = 1 << 8
        started = ranked.forward(driver.batch(Chunk(0, 0, PROMPT)))
        result = ranked.wait_for_tokens(ranked.sample(started, masks))
        assert result.tokens.tolist() == [40]

        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(ranked._local._open().runner.backend, "prepare", fail)
        with pytest.raises(RankLost, match="ran out of memory"):
            ranked.forward(driver.batch(Chunk(0, len(PROMPT), own=1)))
        assert not ranked.ranks.processes
    finally:
        ranked.close()

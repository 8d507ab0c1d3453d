"""What the scheduler asks of a worker for one forward pass, and what comes back.

There is no prefill and no decode. A chunk is positions [start, start + count) of the request in a
slot; a long prompt in pieces, a cache hit, one decoded token and a row of drafts to verify are the
same thing with other numbers. A step is columns over its chunks, never a list of objects.

The worker keeps what it was told: a page table by slot, the tokens it has seen (in pages, like keys
and values), sampling parameters by slot. A batch carries only what is new, and is taken in this
order: `leaves`, `joins`, `pages` (all copies read before any is written), `tokens`, then forward.
"""

from __future__ import annotations

import msgspec

from espalier.protocol.arrays import NO_IDS, Ids, array, raw
from espalier.protocol.messages import Logprobs
from espalier.protocol.sampling import LogprobsWanted, Sampling

OK, NOT_A_NUMBER, NOTHING_POSSIBLE = 0, 1, 2  # a sampled chunk's status


class Join(msgspec.Struct, frozen=True, array_like=True):
    """A request takes a slot. Its pages and tokens come in the columns of the same batch."""

    slot: int
    sampling: Sampling
    prompt_length: int  # where output begins, for penalties and least lengths
    logprobs: LogprobsWanted | None
    namespace: str


class PageChanges(msgspec.Struct, frozen=True, array_like=True):
    """One cache group's news: table[slots[i], indexes[i]] = pages[i], and whole-page copies."""

    slots: Ids = NO_IDS
    indexes: Ids = NO_IDS
    pages: Ids = NO_IDS
    copy_from: Ids = NO_IDS
    copy_to: Ids = NO_IDS


class StepBatch(msgspec.Struct, frozen=True, array_like=True):
    """One forward pass. Columns of one length, a chunk a row, until `ahead`.

    `samples[i]`: so many of the chunk's last positions choose a token: 0, 1, or 1 + drafts.
    `logits[i]` >= `samples[i]`: so many of the last positions need logits (prompt log probabilities).
    `supplied[i]`: so many of the chunk's last tokens stand in `tokens`; those before are known to
    the worker (it chose them itself, or computed them for another request). `ahead[i]`: 1 if
    `tokens` also has, after them and counted in `supplied`, the prompt's next token, which the
    chunk's last row of logits is to score.
    """

    number: int
    slots: Ids
    starts: Ids
    counts: Ids
    samples: Ids
    logits: Ids
    supplied: Ids
    ahead: Ids
    tokens: Ids
    pages: tuple[PageChanges, ...]  # by cache group
    joins: tuple[Join, ...] = ()
    leaves: Ids = NO_IDS

    @property
    def num_tokens(self) -> int:
        return int(self.counts.sum())


class StepResult(msgspec.Struct, frozen=True, array_like=True):
    """Tokens chosen. Rows are the batch's chunks with `samples` > 0, in order.

    `counts[i]` tokens were accepted: 1, or more where drafts stood. A row whose status is not `OK`
    has count 0.
    """

    number: int
    counts: Ids
    tokens: Ids
    status: Ids
    logprobs: Logprobs | None = None


encode = msgspec.msgpack.Encoder(enc_hook=raw).encode
decode_batch = msgspec.msgpack.Decoder(StepBatch, dec_hook=array).decode
decode_result = msgspec.msgpack.Decoder(StepResult, dec_hook=array).decode

"""What the front end and the engine say to each other. Nothing else crosses that border.

Messages are frozen: to change one, `msgspec.structs.replace` it. They are checked once, when
decoded; inside a process they are trusted. The engine sends one `StepOutput` a step for all its
requests: columns, not one object a token.
"""

from __future__ import annotations

from typing import Literal, NewType, TypeAlias

import msgspec

from espalier.protocol.arrays import NO_IDS, Floats, Ids, LongIds, array, raw
from espalier.protocol.sampling import LogprobsWanted, Sampling

RequestId = NewType("RequestId", int)
FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of all messages; the class name is the tag on the wire."""


class Generate(Message, frozen=True, kw_only=True):
    """Continue a prompt. One sample: a prompt with n = 3 is three of these."""

    request: RequestId
    prompt: Ids
    max_tokens: int  # the output's length, `sent` included
    sampling: Sampling = Sampling()
    logprobs: LogprobsWanted | None = None
    priority: int = 0  # higher goes first
    namespace: str = ""  # who may share its prefix: adapter digest and tenant salt
    sent: Ids = NO_IDS  # output that the client has already: it goes on after that
    drafts: bool = True  # may be sped up by drafts, where the engine makes any


class Abort(Message, frozen=True, kw_only=True):
    """End a request now; its terminal event comes with reason `abort`. Unknown ids do nothing."""

    request: RequestId
    why: str = ""


class Flush(Message, frozen=True, kw_only=True):
    """Forget every cached prefix that no running request uses."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request ended in an error, fit for its owner to read."""

    kind: str  # the error class's name, stable: ContextTooLong, QueueFull, NumericalError, ...
    message: str
    hint: str = ""
    status: int = 500


class Admitted(msgspec.Struct, frozen=True, array_like=True):
    """A request began to run; `cached` prompt tokens needed no computing.

    Said again when more of its prompt came from the cache while it was under way.
    """

    request: RequestId
    cached: int


class Finished(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request's one terminal event. No token of it comes after."""

    request: RequestId
    reason: FinishReason
    matched: int = -1  # the stop token that ended it
    failure: Failure | None = None
    num_preemptions: int = 0
    draft_steps: int = 0  # steps that verified drafts,
    drafts_proposed: int = 0  # the drafts they held,
    drafts_accepted: int = 0  # and those that stood


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Log probabilities as columns; row i is about `tokens[i]` standing at `positions[i]`.

    `owners` says whose row it is: a chunk's place in its batch when the worker says it, a request
    when the engine does. `top_*` and `listed_*` are ragged, cut by their counts.
    """

    owners: LongIds
    positions: Ids
    tokens: Ids
    values: Floats
    top_counts: Ids
    top_tokens: Ids
    top_values: Floats
    listed_counts: Ids
    listed_tokens: Ids
    listed_values: Floats


class StepOutput(Message, frozen=True, kw_only=True):
    """What one step brought: `counts[i]` new tokens for `requests[i]`, in order."""

    requests: LongIds
    counts: Ids
    tokens: Ids
    admitted: tuple[Admitted, ...] = ()
    finished: tuple[Finished, ...] = ()
    logprobs: Logprobs | None = None


ToEngine: TypeAlias = Generate | Abort | Flush
ToFrontEnd: TypeAlias = StepOutput

encode = msgspec.msgpack.Encoder(enc_hook=raw).encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine, dec_hook=array).decode
decode_to_front_end = msgspec.msgpack.Decoder(ToFrontEnd, dec_hook=array).decode

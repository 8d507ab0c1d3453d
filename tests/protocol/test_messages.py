"""What crosses a process border comes out as it went in; what is damaged is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from espalier.protocol import messages, step
from espalier.protocol.arrays import NO_IDS, ids
from espalier.protocol.messages import Abort, Flush, Generate, StepOutput
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.protocol.step import Join, PageChanges, StepBatch, StepResult

IDS = arrays(np.int32, st.integers(0, 8))
LONG_IDS = arrays(np.int64, st.integers(0, 8))
FLOATS = arrays(np.float32, st.integers(0, 8))
COUNT = st.integers(0, 2**62)
TEXT = st.text(max_size=8)

SAMPLING = st.builds(
    Sampling,
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 100),
    stop=st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple),
    bias=st.lists(st.tuples(st.integers(0, 9), st.floats(-100, 100)), max_size=3).map(tuple),
    bad_words=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=2).map(tuple),
    seed=st.integers(-(2**63), 2**63 - 1),
    sample=st.integers(0, 15),
)
WANTED = st.none() | st.builds(LogprobsWanted, top=st.integers(0, 20))
TO_ENGINE = st.one_of(
    st.builds(
        Generate,
        request=COUNT,
        prompt=IDS,
        max_tokens=st.integers(1, 2**20),
        sampling=SAMPLING,
        logprobs=WANTED,
        namespace=TEXT,
        sent=IDS,
        drafts=st.booleans(),
    ),
    st.builds(Abort, request=COUNT, why=TEXT),
    st.just(Flush()),
)
LOGPROBS = st.builds(
    messages.Logprobs,
    owners=LONG_IDS,
    **dict.fromkeys(
        ("positions", "tokens", "top_counts", "top_tokens", "listed_counts", "listed_tokens"), IDS
    ),
    **dict.fromkeys(("values", "top_values", "listed_values"), FLOATS),
)
FINISHED = st.builds(
    messages.Finished,
    request=COUNT,
    reason=st.sampled_from(["stop", "length", "abort", "error"]),
    matched=st.integers(-1, 100),
    failure=st.none() | st.builds(messages.Failure, kind=TEXT, message=TEXT),
)
OUTPUT = st.builds(
    StepOutput,
    requests=LONG_IDS,
    counts=IDS,
    tokens=IDS,
    admitted=st.lists(st.builds(messages.Admitted, COUNT, COUNT), max_size=2).map(tuple),
    finished=st.lists(FINISHED, max_size=2).map(tuple),
    logprobs=st.none() | LOGPROBS,
)
BATCH = st.builds(
    StepBatch,
    number=st.integers(0, 2**40),
    **dict.fromkeys(
        ("slots", "starts", "counts", "samples", "logits", "supplied", "ahead", "tokens", "leaves"),
        IDS,
    ),
    pages=st.lists(st.builds(PageChanges, IDS, IDS, IDS, IDS, IDS), max_size=2).map(tuple),
    joins=st.lists(
        st.builds(Join, st.integers(0, 9), SAMPLING, st.integers(0, 99), WANTED, TEXT),
        max_size=2,
    ).map(tuple),
)
RESULT = st.builds(
    StepResult,
    number=st.integers(0, 2**40),
    counts=IDS,
    tokens=IDS,
    status=IDS,
    logprobs=st.none() | LOGPROBS,
)


def plain(value: Any) -> Any:
    """As nested tuples that can be compared: arrays with their types, bit for bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, msgspec.Struct):
        return type(value), *(plain(getattr(value, name)) for name in value.__struct_fields__)
    return tuple(map(plain, value)) if isinstance(value, tuple) else value


@settings(max_examples=50, deadline=None)
@given(TO_ENGINE)
def test_what_is_said_to_the_engine_arrives(message: Any) -> None:
    assert plain(messages.decode_to_engine(messages.encode(message))) == plain(message)


@settings(max_examples=50, deadline=None)
@given(OUTPUT)
def test_what_a_step_brought_arrives(message: StepOutput) -> None:
    assert plain(messages.decode_to_front_end(messages.encode(message))) == plain(message)


@settings(max_examples=50, deadline=None)
@given(BATCH)
def test_a_batch_arrives(batch: StepBatch) -> None:
    assert plain(step.decode_batch(step.encode(batch))) == plain(batch)


@settings(max_examples=50, deadline=None)
@given(RESULT)
def test_a_result_arrives(result: StepResult) -> None:
    assert plain(step.decode_result(step.encode(result))) == plain(result)


# msgspec lets broken UTF-8 out as Python's own error.
BROKEN = (msgspec.DecodeError, UnicodeDecodeError)


@given(st.binary(max_size=64))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    for decode in (messages.decode_to_engine, step.decode_batch, step.decode_result):
        with pytest.raises(BROKEN):
            decode(data)


@given(TO_ENGINE, st.data())
def test_a_message_that_was_cut_is_refused(message: Any, data: st.DataObject) -> None:
    whole = messages.encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BROKEN):
        messages.decode_to_engine(whole[:cut])


def test_an_array_of_half_an_item_is_refused() -> None:
    wire = messages.encode(Generate(request=messages.RequestId(1), prompt=ids([7]), max_tokens=1))
    broken = wire.replace(b"\xc4\x04\x07\x00\x00\x00", b"\xc4\x03\x07\x00\x00")
    assert broken != wire
    with pytest.raises(msgspec.ValidationError, match="whole items of int32"):
        messages.decode_to_engine(broken)


def test_a_message_for_the_other_side_is_refused() -> None:
    output = StepOutput(requests=np.empty(0, np.int64), counts=NO_IDS, tokens=NO_IDS)
    with pytest.raises(msgspec.ValidationError):
        messages.decode_to_engine(messages.encode(output))
    with pytest.raises(msgspec.ValidationError):
        messages.decode_to_front_end(messages.encode(Flush()))


def test_only_arrays_cross_beside_plain_values() -> None:
    with pytest.raises(NotImplementedError, match="object does not cross"):
        messages.encode(Abort(request=messages.RequestId(1), why=object()))  # type: ignore[arg-type]


def test_the_empty_array_that_all_share_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        NO_IDS[:] = 1

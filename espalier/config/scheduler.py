"""Who computes what, when."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from espalier.config.base import Settings


class SchedulerSettings(Settings, frozen=True, kw_only=True):
    """Steps, the queue, and its order."""

    policy: Annotated[str, Meta(description="Order of the queue.")] = "fcfs"
    max_running: Annotated[
        Annotated[int, Meta(ge=1, le=16384)] | None, Meta(description="Requests running at once.")
    ] = None
    max_step_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Tokens computed in one step.")
    ] = None
    chunk_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Tokens of one prompt in one step.")
    ] = None
    target_itl_ms: Annotated[
        Annotated[float, Meta(gt=0.0)] | None,
        Meta(description="Size steps so that a stream waits no longer for a token."),
    ] = None
    max_queued: Annotated[int, Meta(ge=1, description="Requests that may wait.")] = 2048
    max_queued_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Prompt tokens that may wait; else 4 caches full."),
    ] = None
    queue_timeout_s: Annotated[
        Annotated[float, Meta(gt=0.0)] | None, Meta(description="Longest wait in the queue.")
    ] = None
    look_ahead: Annotated[
        Annotated[int, Meta(ge=0, le=1)] | None,
        Meta(description="Steps planned before the last has come back."),
    ] = None

"""The frozen snapshots that parts return from `statistics()`. They know no exporter."""

from __future__ import annotations

import msgspec


class SchedulerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Requests now, and counters since the start."""

    running: int
    waiting: int
    steps: int
    prompt_tokens: int  # computed
    cached_tokens: int  # found in the cache instead
    output_tokens: int
    preemptions: int
    finished: int
    failed_steps: int
    waits: int  # times a request waited for a prefix that another was computing

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


class CacheStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Pages, by where they are. Free, fenced and cached ones and those of requests are all."""

    total: int
    free: int
    fenced: int  # free once the steps in flight have come back
    cached: int
    pinned: int  # of the cached ones
    evicted: int  # since the start
    page_size: int

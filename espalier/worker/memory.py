"""How much memory there is for pages: what a page costs, what the process holds, what a step needs.

All in bytes of one rank. A page costs its keys and values, and its tokens' ids, which stand beside
them; page 0 belongs to nobody and counts like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch

from espalier.attention.base import Heads
from espalier.cache.layout import CacheLayout, GroupLayout

TOKEN_BYTES = 4
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what the kernel calls resetting VmHWM


def cache_layout(heads: Sequence[Heads], page_size: int, dtype: torch.dtype) -> CacheLayout:
    """What a model's pages hold, as this rank sees it: layers of one shape together."""
    shapes = [(layer.key_value, layer.size) for layer in heads]
    groups = tuple(
        GroupLayout(
            layers=shapes.count(shape),
            key_value_heads=shape[0],
            head_size=shape[1],
            dtype=str(dtype).removeprefix("torch."),
        )
        for shape in dict.fromkeys(shapes)
    )
    return CacheLayout(groups=groups, page_size=page_size)


def page_bytes(layout: CacheLayout) -> int:
    return layout.bytes_per_page + layout.page_size * TOKEN_BYTES


def num_pages_for(layout: CacheLayout, size_bytes: int) -> int:
    """How many pages fit, page 0 included."""
    return max(size_bytes, 0) // page_bytes(layout)


def resident_bytes() -> int:
    """What this process holds of the host's memory."""
    return int(psutil.Process().memory_info().rss)


def workspace_bytes(run: Callable[[], object], device: torch.device) -> int:
    """By how much memory rises at most while `run` runs; on the CPU, to the nearest page or so."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return max(torch.cuda.max_memory_allocated(device) - before, 0)
    CLEAR.write_text(RESET_PEAK)
    before = resident_bytes()
    run()
    return max(_peak_bytes() - before, 0)


def _peak_bytes() -> int:
    """The most that was resident since the last reset."""
    for line in STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    return resident_bytes()

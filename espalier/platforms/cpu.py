"""This machine's CPU: cores, memory and instruction sets that the process may really use.

A container's limits count, not the machine's: cgroups (both versions) and the affinity mask.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from espalier.platforms.base import Platform

ROOT = Path("/")
# What kernels choose by; named as /proc/cpuinfo does.
INTERESTING = frozenset(
    {
        "amx_bf16",
        "amx_int8",
        "amx_tile",
        "asimd",
        "asimddp",
        "avx2",
        "avx512_bf16",
        "avx512_fp16",
        "avx512_vnni",
        "avx512bw",
        "avx512f",
        "avx512vl",
        "avx_vnni",
        "bf16",
        "f16c",
        "fma",
        "i8mm",
        "sve",
    }
)
BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_platform(root: Path = ROOT) -> Platform:
    """The CPU as /proc, /sys and cgroups under `root` tell it."""
    sets = instruction_sets(root)
    return Platform(
        device="cpu",
        name=_name(root),
        memory_bytes=min([psutil.virtual_memory().total, *_memory_limits(root)]),
        cores=cores(root),
        numa_nodes=numa_nodes(root),
        instruction_sets=sets,
        supports_bf16=bool(sets & BF16),
    )


def cores(root: Path = ROOT) -> int:
    """Physical cores of this process, at most what its cgroup is given time for; at least 1."""
    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0))
    physical = psutil.cpu_count(logical=False) or logical
    mine = max(1, allowed * physical // logical)
    return max(1, min([mine, *_core_limits(root)]))


def instruction_sets(root: Path = ROOT) -> frozenset[str]:
    """Those that kernels choose by."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, values = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return INTERESTING & set(values.split())
    return frozenset()


def numa_nodes(root: Path = ROOT) -> int:
    nodes = root / "sys/devices/system/node"
    return max(1, len(list(nodes.glob("node[0-9]*"))))


def _name(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_limits(root: Path) -> list[int]:
    """Every limit on this process's memory, in bytes; "max" is none."""
    files = [folder / "memory.max" for folder in _cgroups(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _cgroups(root, "memory")]
    return [int(text) for text in (_text(file).strip() for file in files) if text.isdigit()]


def _core_limits(root: Path) -> list[int]:
    """Every limit on this process's CPU time, in whole cores."""
    quotas = [_text(folder / "cpu.max").split() for folder in _cgroups(root, "")]
    for folder in _cgroups(root, "cpu"):
        quota = _text(folder / "cpu.cfs_quota_us").strip()
        quotas.append([quota, _text(folder / "cpu.cfs_period_us").strip()])
    return [
        max(1, int(quota[0]) // int(quota[1]))
        for quota in quotas
        if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1])
    ]


def _cgroups(root: Path, controller: str) -> list[Path]:
    """This process's cgroup and those above it; version 2 has one tree, named by no controller."""
    top = root / "sys/fs/cgroup" / controller
    for line in _text(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and controller in parts[1].split(","):
            own = Path(parts[2].lstrip("/"))
            return [top / folder for folder in (own, *own.parents)]
    return [top]


def _text(path: Path) -> str:
    """What a file says; nothing, if it is not there or not for us to read."""
    try:
        return path.read_text()
    except OSError:
        return ""

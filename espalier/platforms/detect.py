"""The device a name stands for: `auto`, `cpu`, `cuda`, `cuda:1`, or one that is not there at all."""

from __future__ import annotations

from espalier.errors import ConfigError
from espalier.platforms.base import Platform, known_device
from espalier.platforms.cpu import cpu_platform
from espalier.platforms.cuda import cuda_platform, has_cuda


def this_machine(device: str = "auto") -> Platform:
    """The platform to run on."""
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return cpu_platform()
    if kind == "cuda" and (not index or index.isdigit()):
        return cuda_platform(int(index or 0))
    if device != "auto":
        raise ConfigError(f"device {device!r} is none", hint="auto, cpu, cuda or cuda:<number>")
    return cuda_platform() if has_cuda() else cpu_platform()


def for_planning(device: str) -> Platform:
    """The same, or a known device that need not be there (`h200`, `rtx4090`, ...)."""
    if device.partition(":")[0] in {"auto", "cpu", "cuda"}:
        return this_machine(device)
    return known_device(device)

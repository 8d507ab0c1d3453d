"""What a device is and can do, as data. Nobody asks which device it is; a field answers instead.

`devices` is the table of known ones, so that a plan can be made for a device that is not there.
Torch-free; `cpu` and `cuda` fill a Platform in for the machine at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from espalier.errors import UnknownName

DeviceKind: TypeAlias = Literal["cpu", "cuda"]

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    device: DeviceKind  # what torch calls it
    name: str
    memory_bytes: int  # all of the device's, and of what this process may use
    cores: int = 1  # CPU cores that this process may use
    numa_nodes: int = 1
    instruction_sets: frozenset[str] = frozenset()  # avx2, avx512f, avx512_bf16, amx_bf16, ...
    capability: tuple[int, int] = (0, 0)  # CUDA compute capability
    num_devices: int = 1
    supports_bf16: bool = True  # without falling back to slow emulation
    supports_graphs: bool = False  # a step can be captured and replayed
    has_triton: bool = False
    queues_work: bool = False  # a launched step runs while Python goes on
    reserved_bytes: int = 0  # taken by the driver before we begin: context and libraries
    memory_bandwidth: float = 0.0  # bytes per second; 0: not known

    def with_memory(self, memory_bytes: int) -> Platform:
        """The same device with another amount of memory."""
        return replace(self, memory_bytes=memory_bytes)


def _gpu(name: str, gib: float, capability: tuple[int, int], terabytes_per_s: float) -> Platform:
    return Platform(
        device="cuda",
        name=name,
        memory_bytes=int(gib * GIB),
        capability=capability,
        supports_bf16=capability >= (8, 0),
        supports_graphs=True,
        has_triton=True,
        queues_work=True,
        reserved_bytes=GIB // 2,
        memory_bandwidth=terabytes_per_s * 1e12,
    )


# Memory as the driver reports it, which is less than what is printed on the box.
DEVICES: Mapping[str, Platform] = {
    "a100-40g": _gpu("NVIDIA A100 40GB", 39.4, (8, 0), 1.56),
    "a100": _gpu("NVIDIA A100 80GB", 79.2, (8, 0), 2.04),
    "a10g": _gpu("NVIDIA A10G", 22.1, (8, 6), 0.60),
    "b200": _gpu("NVIDIA B200", 178.4, (10, 0), 8.0),
    "h100": _gpu("NVIDIA H100 80GB", 79.2, (9, 0), 3.35),
    "h200": _gpu("NVIDIA H200", 139.8, (9, 0), 4.8),
    "l4": _gpu("NVIDIA L4", 22.0, (8, 9), 0.30),
    "l40s": _gpu("NVIDIA L40S", 44.4, (8, 9), 0.86),
    "rtx3090": _gpu("NVIDIA GeForce RTX 3090", 23.6, (8, 6), 0.94),
    "rtx4090": _gpu("NVIDIA GeForce RTX 4090", 23.5, (8, 9), 1.01),
    "rtx5090": _gpu("NVIDIA GeForce RTX 5090", 31.4, (12, 0), 1.79),
    "t4": _gpu("NVIDIA T4", 14.6, (7, 5), 0.30),
}


def known_device(name: str) -> Platform:
    """The device called `name` in the table."""
    key = name.lower().replace(" ", "").replace("_", "-")
    if key not in DEVICES:
        raise UnknownName("device", name, [*DEVICES, "cpu"])
    return DEVICES[key]

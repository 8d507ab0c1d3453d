"""An NVIDIA device, as torch describes it. torch is imported only when somebody asks."""

from __future__ import annotations

from importlib.util import find_spec

from espalier.errors import ConfigError
from espalier.platforms.base import GIB, Platform
from espalier.platforms.cpu import cores


def has_cuda() -> bool:
    """Whether this torch finds a device it can use."""
    import torch  # noqa: PLC0415 - platforms.base and cpu must not pay for torch

    return torch.cuda.is_available()


def cuda_platform(index: int = 0) -> Platform:
    """Device number `index`; raises ConfigError where there is none."""
    import torch  # noqa: PLC0415 - platforms.base and cpu must not pay for torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "no CUDA device can be used",
            hint="start with --device cpu, or install the driver and a torch built for CUDA",
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f"there is no CUDA device {index}", hint=f"there are {count}, from 0")
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    return Platform(
        device="cuda",
        name=properties.name,
        memory_bytes=properties.total_memory,
        cores=cores(),
        capability=capability,
        num_devices=count,
        supports_bf16=capability >= (8, 0),
        supports_graphs=True,
        has_triton=find_spec("triton") is not None and capability >= (7, 0),
        queues_work=True,
        reserved_bytes=GIB // 2,
    )

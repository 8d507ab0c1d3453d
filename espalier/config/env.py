"""The environment variables that matter, in one table. Nobody else reads the environment.

Those of the CUDA driver, NCCL and torch (CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES, NCCL_DEBUG,
NCCL_IB_DISABLE, PYTORCH_CUDA_ALLOC_CONF) are read by these themselves, and mean what they always do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLES: Mapping[str, str] = {
    "HF_TOKEN": "the hub's access token",
    "HUGGING_FACE_HUB_TOKEN": "the same, by its older name",
    "HF_HOME": "where the hub's tools keep everything",
    "HF_HUB_CACHE": "where downloads from the hub are kept",
    "TRANSFORMERS_CACHE": "the same, by its older name",
    "HF_ENDPOINT": "a mirror in place of the hub",
    "HF_HUB_OFFLINE": "1: use what is here, and ask nobody",
    "CUDA_VISIBLE_DEVICES": "which GPUs are seen; read by the driver",
    "NVIDIA_VISIBLE_DEVICES": "which GPUs a container is given; read by its runtime",
    "NCCL_DEBUG": "how much NCCL says; read by NCCL",
    "NCCL_IB_DISABLE": "1: no InfiniBand; read by NCCL",
    "PYTORCH_CUDA_ALLOC_CONF": "torch's allocator; read by torch",
}


def environment() -> dict[str, str]:
    """The variables of the table that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}

"""From the host's arrays to tensors on the device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_device(values: npt.NDArray[np.integer], device: torch.device) -> Tensor:
    """`values` as int64 on the device; never the array's own memory, which may be a message's."""
    return torch.from_numpy(values.astype(np.int64)).to(device, non_blocking=True)

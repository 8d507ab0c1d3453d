"""What the running requests ask of sampling, kept by slot and changed when one joins or leaves.

Numbers that every random row needs are columns on the device; a step gathers its rows from them.
What decides which work is done at all stands on the host, so a step that wants nothing does nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from espalier.protocol.arrays import Ids
from espalier.protocol.sampling import LogprobsWanted, Sampling
from espalier.protocol.step import Join
from espalier.sampling.processors import Processor, processors_for

WORD = 0xFFFFFFFF
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Draws:
    """How each of R rows is drawn."""

    temperature_R: Tensor
    top_k_R: Tensor
    top_p_R: Tensor
    min_p_R: Tensor
    seed_R: Tensor
    sample_R: Tensor


class SamplingTable:
    """Sampling by slot. The worker's; only `join` and `leave` change it."""

    def __init__(self, num_slots: int, vocabulary: int, device: torch.device) -> None:
        self.vocabulary = vocabulary
        self.device = device
        self.prompt_lengths = np.zeros(num_slots, np.int64)
        self.scored_from = np.full(num_slots, NEVER)  # prompt positions from here are scored
        self.is_random = np.zeros(num_slots, np.bool_)
        self.is_filtered = np.zeros(num_slots, np.bool_)
        self.processors: dict[int, tuple[Processor, ...]] = {}
        self.logprobs: dict[int, LogprobsWanted] = {}
        self._reals = torch.zeros(num_slots, 3, dtype=torch.float32, device=device)
        self._whole = torch.zeros(num_slots, 3, dtype=torch.int64, device=device)

    def join(self, join: Join) -> None:
        """Take a request in; whoever had the slot before is forgotten."""
        slot, sampling = join.slot, join.sampling
        self.leave(slot)
        processors = processors_for(sampling, self.vocabulary, self.device)
        if processors:
            self.processors[slot] = processors
        if join.logprobs is not None:
            self.logprobs[slot] = join.logprobs
            if join.logprobs.prompt_from >= 0:
                self.scored_from[slot] = join.logprobs.prompt_from
        self.prompt_lengths[slot] = join.prompt_length
        self.is_random[slot] = sampling.temperature > 0
        self.is_filtered[slot] = is_filtered(sampling)
        reals = [sampling.temperature, sampling.top_p, sampling.min_p]
        whole = [sampling.top_k, signed(sampling.seed), sampling.sample & WORD]
        self._reals[slot] = torch.tensor(reals, dtype=torch.float32)
        self._whole[slot] = torch.tensor(whole, dtype=torch.int64)

    def leave(self, slot: int) -> None:
        """Forget the request in a slot; an empty slot stays one."""
        self.processors.pop(slot, None)
        self.logprobs.pop(slot, None)
        self.scored_from[slot] = NEVER

    def draws(self, slots: Ids) -> Draws:
        rows = torch.from_numpy(slots.astype(np.int64)).to(self.device)
        temperature, top_p, min_p = self._reals[rows].unbind(-1)
        top_k, seed, sample = self._whole[rows].unbind(-1)
        return Draws(temperature, top_k, top_p, min_p, seed, sample)


def is_filtered(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def signed(seed: int) -> int:
    """The low 64 bits of a seed, as int64 holds them."""
    low = seed & 0xFFFFFFFFFFFFFFFF
    return low - (1 << 64) if low >> 63 else low

"""Sampling written plainly, one row at a time, in numpy and float64: what ours is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from espalier.protocol.sampling import Sampling

Row = npt.NDArray[np.float64]


def processed(logits: Row, sampling: Sampling, prompt: Sequence[int], output: Sequence[int]) -> Row:
    """The logits from which a token is chosen."""
    row = logits.copy()
    history = [*prompt, *output]
    for token in set(output):
        row[token] -= sampling.frequency_penalty * list(output).count(token)
        row[token] -= sampling.presence_penalty
    for token in set(history):
        penalty = sampling.repetition_penalty
        row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    for token, value in sampling.bias:
        row[token] += value
    if sampling.allowed:
        row[[token for token in range(len(row)) if token not in sampling.allowed]] = -np.inf
    if len(output) < sampling.min_tokens:
        row[list(sampling.stop)] = -np.inf
    for *before, last in sampling.bad_words:
        if history[len(history) - len(before) :] == before:
            row[last] = -np.inf
    return row


def probabilities(row: Row, sampling: Sampling) -> Row:
    """How likely each token is to be drawn."""
    if sampling.temperature == 0:
        return np.eye(len(row))[int(np.argmax(row))]
    weights = np.exp((row - row.max()) / sampling.temperature)
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    if sampling.top_k:
        order = order[: sampling.top_k]
    total, mass, kept = sum(weights[token] for token in order), 0.0, []
    for token in order:
        if kept and mass >= sampling.top_p * total:
            break
        mass += weights[token]
        kept.append(token)
    out = np.zeros(len(row))
    for token in kept:
        if weights[token] >= sampling.min_p:
            out[token] = weights[token]
    return out / out.sum()

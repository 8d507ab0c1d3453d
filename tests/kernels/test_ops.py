"""Every implementation of every operation, against its reference, on the operation's own cases."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import espalier.kernels
from espalier.kernels.op import Case, Op

FOLDER = Path(espalier.kernels.__file__).parent
for module in sorted(FOLDER.glob("*.py")):  # registers their operations
    import_module(f"espalier.kernels.{module.stem}")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MISSING = set() if DEVICE == "cuda" else {"triton"}

FAST = [
    pytest.param(op, name, case, id=f"{op.name}-{name}-{case.name}")
    for op in Op.all.values()
    for name in op.fast.names()
    for case in op.cases()
]
REFERENCE = [
    pytest.param(op, case, id=f"{op.name}-{case.name}")
    for op in Op.all.values()
    for case in op.cases()
]


def arguments(case: Case) -> list[Any]:
    """The case's, the same each time: an operation may write into them."""
    torch.manual_seed(0)
    return [a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in case.args()]


@pytest.mark.parametrize(("op", "implementation", "case"), FAST)
def test_agrees_with_reference(op: Op[..., Any], implementation: str, case: Case) -> None:
    if implementation in MISSING:
        pytest.skip(f"{implementation} does not run on this machine")
    result = op.fast.get(implementation)(*arguments(case))
    expected = op.reference(*arguments(case))
    torch.testing.assert_close(result, expected, atol=case.tolerance, rtol=case.tolerance)


@pytest.mark.parametrize(("op", "case"), REFERENCE)
def test_a_reference_repeats_itself_to_the_bit(op: Op[..., Any], case: Case) -> None:
    result, again = op(*arguments(case)), op(*arguments(case))
    torch.testing.assert_close(result, again, atol=0, rtol=0, equal_nan=True)

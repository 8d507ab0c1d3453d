"""Ruling 8 for products: a row's bits do not depend on the rows beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from espalier.kernels.activation import gelu_and_mul, gelu_tanh_and_mul, silu_and_mul
from espalier.kernels.linear import linear
from espalier.kernels.moe import grouped_linear, route_top_k
from espalier.kernels.norm import add_rms_norm, offset_rms_norm, rms_norm
from espalier.kernels.rotary import rotary

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((64, 192), (64, 2), (100, 37), (172, 64), (896, 500), (2048, 256), (5632, 64))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_product_does_not_depend_on_the_batch(
    inputs: int, outputs: int, dtype: torch.dtype, threads: int
) -> None:
    del threads
    x_TD = torch.randn(300, inputs).to(dtype)
    weight_OD, bias_O = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
    alone = torch.cat([linear(row[None], weight_OD, bias_O) for row in x_TD[:24]])
    for start in (0, 5):
        for count in (1, 2, 3, 4, 7, 8, 9, 17, 64, 129, 290):
            together = linear(x_TD[start : start + count], weight_OD, bias_O)
            assert torch.equal(together[: 24 - start], alone[start : start + count])


@settings(max_examples=300, deadline=None)
@given(
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 300),
    count=st.integers(1, 80),
    start=st.integers(0, 80),
    dtype=st.sampled_from(DTYPES),
)
def test_a_product_of_any_shape_does_not_depend_on_the_batch(
    inputs: int, outputs: int, count: int, start: int, dtype: torch.dtype
) -> None:
    x_TD = torch.randn(start + count, inputs).to(dtype)
    weight_OD = torch.randn(outputs, inputs).to(dtype)
    whole = linear(x_TD, weight_OD)
    assert torch.equal(linear(x_TD[start:], weight_OD), whole[start:])
    assert torch.equal(linear(x_TD[start : start + 1], weight_OD), whole[start : start + 1])


def _rotary(x_TD: Tensor) -> Tensor:
    angles_TR = x_TD[:, :8].float()
    return rotary(x_TD[:, None, :], angles_TR.cos(), angles_TR.sin())


def _weight(x_TD: Tensor) -> Tensor:
    return torch.linspace(0.5, 2.0, x_TD.shape[1]).to(x_TD.dtype)


ROW_BY_ROW = {
    "silu": silu_and_mul,
    "gelu": gelu_and_mul,
    "gelu tanh": gelu_tanh_and_mul,
    "rms norm": lambda x: rms_norm(x, _weight(x), 1e-6),
    "rms norm of the sum": lambda x: add_rms_norm(x, x, _weight(x), 1e-6)[0],
    "offset rms norm": lambda x: offset_rms_norm(x, _weight(x), 1e-6),
    "rotary": _rotary,
    "shares of experts": lambda x: route_top_k(x, 4)[0],
    "choice of experts": lambda x: route_top_k(x, 4)[1],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_what_is_done_to_a_row_does_not_depend_on_the_batch(
    name: str, dtype: torch.dtype, threads: int
) -> None:
    del threads
    op = ROW_BY_ROW[name]
    for width in (16, 74, 200, 1000, 4864):
        x_TD = (2 * torch.randn(400 if width < 1000 else 70, width)).to(dtype)
        whole = op(x_TD)
        for start, count in ((0, 1), (3, 1), (5, 2), (1, 7), (0, 8), (2, 13), (31, 64)):
            part = op(x_TD[start : start + count])
            assert torch.equal(part, whole[start : start + count]), f"{width} wide"


def test_an_experts_rows_do_not_depend_on_each_other(threads: int) -> None:
    del threads
    weight_EOD, x_RD = torch.randn(3, 48, 64), torch.randn(30, 64)
    whole = grouped_linear(x_RD, weight_EOD, torch.tensor([9, 0, 21]))
    fewer = grouped_linear(x_RD[[2, 11, 29]], weight_EOD, torch.tensor([1, 0, 2]))
    assert torch.equal(fewer, whole[[2, 11, 29]])

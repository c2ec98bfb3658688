"""The host's aclnn functions under torch-npu, each against the same call on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Same = Callable[..., None]
REAL = [torch.float32, torch.bfloat16, torch.float16]


def floats(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(sum(sizes))
    return (torch.randn(sizes) * 3).to(dtype)


def integers(*sizes: int, dtype: torch.dtype = torch.int64, low: int = -9) -> torch.Tensor:
    torch.manual_seed(sum(sizes))
    return torch.randint(low, 10, sizes).to(dtype)


UNARY: list[Callable[..., Any]] = [
    torch.exp, torch.sin, torch.cos, torch.tanh, torch.sigmoid, torch.erf, torch.nn.functional.silu, torch.relu,
    torch.neg, torch.abs, torch.sign, torch.floor, torch.ceil, torch.trunc, torch.round, torch.square, torch.isfinite,
    torch.signbit, torch.reciprocal, torch.isnan, lambda x: x.abs().sqrt(), lambda x: x.abs().rsqrt(),
    lambda x: x.abs().log(), torch.nn.functional.softplus, lambda x: x.clamp(-1, 2), lambda x: x.clamp_min(0.5),
    lambda x: x.clamp_max(0.5), lambda x: x.t().contiguous(), lambda x: x.to(torch.bfloat16),
    lambda x: x.to(torch.int32),
    lambda x: x.logical_not(), lambda x: torch.full_like(x, 1.5), lambda x: torch.zeros_like(x), lambda x: x.fill_(2),
]  # fmt: skip


@pytest.mark.parametrize("f", UNARY, ids=lambda f: getattr(f, "__name__", "f"))
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_one_operand(f: Callable[..., Any], dtype: torch.dtype, same: Same) -> None:
    same(f, floats(37, 5, dtype=dtype), rtol=3e-6 if dtype == torch.float32 else 1e-2)
    same(f, floats(1, 1, dtype=dtype), rtol=3e-6 if dtype == torch.float32 else 1e-2)


BINARY: list[Callable[..., Any]] = [
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.eq, torch.ne, torch.lt, torch.le,
    torch.gt, torch.ge, torch.remainder, torch.floor_divide, lambda a, b: torch.add(a, b, alpha=3),
    lambda a, b: a - 2.5,
    lambda a, b: 2.5 - a, lambda a, b: a * 0.1, lambda a, b: a / 3, lambda a, b: a**2, lambda a, b: 2**a,
    lambda a, b: torch.where(a > b, a, b), lambda a, b: a.masked_fill(a > 0, -1), lambda a, b: a.add_(b),
    lambda a, b: a > 0.5,
]  # fmt: skip


@pytest.mark.parametrize("f", BINARY, ids=lambda f: getattr(f, "__name__", "f"))
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_two_operands_in_every_shape_that_broadcasts(f: Callable[..., Any], dtype: torch.dtype, same: Same) -> None:
    rtol = 1e-6 if dtype == torch.float32 else 1e-2
    for a, b in [
        ((6, 7), (6, 7)),
        ((6, 7), (7,)),
        ((6, 7), ()),
        ((6, 1, 3), (1, 1, 3)),
        ((0, 4), (4,)),
        ((3000,), (1,)),
    ]:
        same(f, floats(*a, dtype=dtype), floats(*b, dtype=dtype), rtol=rtol)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool], ids=str)
def test_integers_are_exact(dtype: torch.dtype, same: Same) -> None:
    low = 0 if dtype in (torch.uint8, torch.bool) else -9
    a, b = integers(40, 3, dtype=dtype, low=low), integers(3, dtype=dtype, low=low)
    for f in (torch.add, torch.mul, torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor, torch.eq, torch.lt,
              torch.ge,
              lambda x, y: ~x, lambda x, y: x.logical_or(y), lambda x, y: x.to(torch.float32), lambda x, y: x & 1,
              lambda x, y: x.sum(), lambda x, y: x.any(), lambda x, y: x.all(0)):  # fmt: skip
        same(f, a, b, rtol=0)
    if dtype != torch.bool:
        for f in (lambda x, y: x << 2, lambda x, y: x >> 1, lambda x, y: x // 3, lambda x, y: x % 4,
                  lambda x, y: x.max(),
                  lambda x, y: x - y, lambda x, y: x.clamp(1, 3), lambda x, y: x.unique(),
                  lambda x, y: x.amin(1)):  # fmt: skip
            same(f, a, b, rtol=0)
    same(lambda x: x + (1 << 62), torch.tensor([(1 << 53) + 1]), rtol=0)


def test_types_are_promoted_as_on_the_cpu(same: Same) -> None:
    for f in (torch.add, torch.mul, torch.div, torch.gt):
        same(f, integers(5), floats(5))
        same(f, integers(5, dtype=torch.int32), integers(5))
        same(f, floats(5, dtype=torch.bfloat16), floats(5), rtol=1e-6)
        same(f, integers(5, dtype=torch.uint8, low=0), integers(5, low=0) > 3)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_reductions(dtype: torch.dtype, same: Same) -> None:
    x, rtol = floats(5, 33, 7, dtype=dtype), 2e-6 if dtype == torch.float32 else 2e-2
    for f in (torch.sum, lambda x: x.sum(1), lambda x: x.sum((0, 2), keepdim=True),
              lambda x: x.mean(-1, keepdim=True),
              lambda x: x.amax((1, 2)), lambda x: x.amin(0), torch.max, torch.min, lambda x: x.max(1),
              lambda x: x.min(-1),
              torch.argmax, lambda x: x.argmax(1), lambda x: x.softmax(1), lambda x: x.cumsum(1),
              lambda x: torch.sort(x, dim=1, stable=True, descending=True), lambda x: x.topk(4, 1),
              lambda x: (x > 0).any(1)):  # fmt: skip
        same(f, x, rtol=rtol)
        same(f, x.transpose(0, 2), rtol=rtol)
    same(lambda x: x.sum(0), floats(0, 4), rtol=0)


def test_ties_and_nans_are_ordered_as_on_the_cpu(same: Same) -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, -1.0], [float("nan"), 5.0, float("nan"), 5.0]])
    for f in (
        lambda x: x.max(1),
        lambda x: x.argmax(1),
        lambda x: torch.sort(x, dim=1, stable=True),
        lambda x: x.amax(1),
    ):
        same(f, x)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_matrix_products(dtype: torch.dtype, same: Same) -> None:
    def products(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            a @ b, torch.nn.functional.linear(a, b.t()), torch.addmm(c, a, b, beta=2, alpha=3),
            a[None].expand(3, -1, -1) @ b, torch.bmm(torch.stack((a, a)), torch.stack((b, b))), a[0] @ b[:, 0],
            a @ b[:, 0],
        )  # fmt: skip

    n = 16  # small integers: every sum is exact
    a, b, c = (integers(*s, low=-3).to(dtype) for s in ((5, n), (n, 9), (9,)))
    same(products, a, b, c, rtol=0 if dtype == torch.float32 else 1e-2)


def test_moving_elements(same: Same) -> None:
    x, picks = floats(6, 5, 4), torch.tensor([3, -1, 0, 3])
    mask = torch.tensor([True, False, True, True, False, True])
    for f in (lambda x, i, m: torch.cat((x, x[:2], x[:0])), lambda x, i, m: torch.stack((x, x), 1),
              lambda x, i, m: x[i],
              lambda x, i, m: x[:, i], lambda x, i, m: x[i, i], lambda x, i, m: x[m], lambda x, i, m: x[m][:, :, i],
              lambda x, i, m: x[i[:, None], i[None, :], :], lambda x, i, m: x[i[:0]], lambda x, i, m: m.nonzero(),
              lambda x, i, m: x.index_select(1, i % 5),
              lambda x, i, m: torch.nn.functional.embedding(i % 5, x[:, :, 0]),
              lambda x, i, m: x.gather(1, (i % 4).view(4, 1, 1).expand(4, 2, 3)),
              lambda x, i, m: x.index_fill(0, i % 6, 2.0),
              lambda x, i, m: x.index_put((i,), torch.ones(4, device=x.device)), lambda x, i, m: x.flip(0),
              lambda x, i, m: x.index_put((i, i), x[0, 0, 0]), lambda x, i, m: x.index_add(0, i % 6, x[:4], alpha=2),
              lambda x, i, m: x.index_put((i,), x[i], accumulate=True), lambda x, i, m: torch.where(m)[0],
              lambda x, i, m: x.scatter(0, (i % 6).view(4, 1, 1), 7.0), lambda x, i, m: x.repeat_interleave(3, 1),
              lambda x, i, m: torch.nn.functional.pad(x, (1, 2, 0, 3), value=9.0), lambda x, i, m: x.repeat(2, 1, 3),
              lambda x, i, m: torch.arange(3, 11, 2, device=x.device),
              lambda x, i, m: torch.arange(5, device=x.device)):  # fmt: skip
        same(f, x, picks, mask, rtol=0)


def test_casts_round_once_to_nearest_even(same: Same) -> None:
    x = torch.cat((torch.tensor([0.0, -0.0, 448.0, 464.0, 0.0009, 1e-9, 1.0625, 1.1875]), floats(4000) * 30))
    same(lambda x: x.to(torch.bfloat16), x, rtol=0)
    same(lambda x: x.to(torch.float16), x, rtol=0)
    same(lambda x: x.to(torch.float64).to(torch.float32), x, rtol=0)
    y = x.clamp(-448, 448)
    assert torch.equal(
        y.npu().to(torch.float8_e4m3fn).cpu().view(torch.uint8), y.to(torch.float8_e4m3fn).view(torch.uint8)
    )
    q = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert torch.equal(q.npu().float().cpu().nan_to_num(7), q.float().nan_to_num(7))

"""Our kernels, launched by torch through aclrtLaunchKernel* on the emulated chip, against the reference."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator

import pytest
import torch

import v4npu
from v4npu import _C, ops, reference
from v4npu.reference.formats import round_fp4
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.ascend_ops import OPS
from v4npu.testing.attention import problem
from v4npu.testing.cases import arguments

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def no_reference() -> Iterator[None]:
    """The kernels alone: falling back is an error here."""
    with v4npu.fallback("error"):
        yield


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(got: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    assert got.device.type == "npu" and got.dtype == dtype
    error = (got.cpu().double() - exact).abs()
    bound = torch.finfo(dtype).eps * exact.abs() + 8 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert (error <= bound).all(), f"off by {error.max():.3g}"


def test_the_plan_says_which_operators_have_a_kernel(variants: dict[str, str]) -> None:
    found = {op: v4npu.explain(op, "npu") for op in _C.op_names()}
    assert {op: e.variant for op, e in found.items()} == variants
    assert {op for op, e in found.items() if e.variant == "ascendc"} == set(OPS)
    assert all("never run on a device" in found[op].reason for op in OPS)
    caps = next(c for c in _C.caps() if c.kind == "npu")
    assert caps.available and caps.name == os.environ["V4NPU_EMULATE_SOC"]
    assert caps.features == ["dav_2201" if "910" in caps.name else "dav_3510"]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(5, 300), (1, 7), (2, 3, 4097), (100, 16), (0, 8)])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight = normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype, seed=1)
    for w in (weight, None, weight.float() if dtype == torch.bfloat16 else weight):
        got = ops.rms_norm(x.npu(), None if w is None else w.npu(), 1e-6)
        assert got.shape == x.shape
        if x.numel():
            assert_close(got, reference.rms_norm(x.double(), w, 1e-6), dtype)


def test_views_are_read_in_their_own_order() -> None:
    x = normal(6, 40, 5)
    got = ops.rms_norm(x.npu().transpose(1, 2)[::2], None, 1e-6)
    assert_close(got, reference.rms_norm(x.double().transpose(1, 2)[::2], None, 1e-6), torch.float32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("heads", "head_dim", "rope_dim"), [(4, 96, 32), (1, 64, 64), (3, 80, 16)])
def test_rope(dtype: torch.dtype, heads: int, head_dim: int, rope_dim: int) -> None:
    x, positions = normal(9, heads, head_dim, dtype=dtype), torch.arange(9) * 1000
    freqs = rope_frequencies(rope_dim, 160000.0)
    for inverse in (False, True):
        got = ops.rope(x.npu(), positions.npu(), freqs.npu(), inverse)
        assert_close(got, reference.rope(x.double(), positions, freqs, inverse), dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_quantisers_byte_for_byte(dtype: torch.dtype) -> None:
    x = normal(7, 384, dtype=dtype) * torch.logspace(-3, 3, 7).to(dtype)[:, None]
    for quantise, name, block in ((ops.act_quant, "act_quant", 128), (ops.fp4_act_quant, "fp4_act_quant", 32)):
        q, scale = quantise(x.npu(), block)
        for got, wanted in zip((q, scale), getattr(reference, name)(x, block), strict=True):
            assert got.dtype == wanted.dtype and got.shape == wanted.shape
            assert torch.equal(got.cpu().view(torch.uint8), wanted.view(torch.uint8))


def test_a_block_that_fp4_cannot_hold_has_a_nan_for_its_scale() -> None:
    x = normal(3, 64)
    x[0, 3], x[1, 5] = float("inf"), float("nan")
    q, scale = ops.fp4_act_quant(x.npu())
    wanted_q, wanted_scale = reference.fp4_act_quant(x[[0, 2]])
    assert torch.equal(q.cpu()[[0, 2]], wanted_q)
    assert torch.equal(scale.cpu()[[0, 2]].view(torch.uint8), wanted_scale.view(torch.uint8))
    assert scale.cpu()[1].isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    "dtypes", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)], ids=str
)
@pytest.mark.parametrize(("experts", "topk"), [(7, 2), (256, 6)])
def test_gate(dtypes: tuple[torch.dtype, torch.dtype], experts: int, topk: int) -> None:
    x, weight, bias = normal(9, 128, dtype=dtypes[0]), normal(experts, 128, dtype=dtypes[1]), normal(experts, seed=2)
    indices, weights = ops.gate(x.npu(), weight.npu(), bias.npu(), topk, 1.5)
    wanted, exact = reference.gate(x.double(), weight.double(), bias.double(), topk, 1.5)
    assert torch.equal(indices.cpu(), wanted)
    torch.testing.assert_close(weights.cpu().double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "dtypes", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)], ids=str
)
def test_hash_gate(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    x, weight = normal(9, 128, dtype=dtypes[0]), normal(16, 128, dtype=dtypes[1], seed=1)
    table, ids = torch.arange(60).view(10, 6) % 16, torch.arange(9)
    indices, weights = ops.hash_gate(x.npu(), weight.npu(), table.npu(), ids.npu(), 1.5)
    wanted, exact = reference.hash_gate(x.double(), weight.double(), table, ids, 1.5)
    assert torch.equal(indices.cpu(), wanted)
    torch.testing.assert_close(weights.cpu().double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(9, 4, 300), (1, 2, 4096), (0, 4, 8), (3, 4, 0)])
def test_hc_post(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    x, streams = normal(shape[0], shape[2], dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    post, comb = normal(*shape[:2], seed=2), normal(shape[0], shape[1], shape[1], seed=3)
    got = ops.hc_post(x.npu(), streams.npu(), post.npu(), comb.npu())
    assert got.shape == streams.shape
    if streams.numel():
        exact = reference.hc_post(x.double(), streams.double(), post.double(), comb.double())
        assert_close(got, exact, dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(9, 4, 300), (1, 2, 2100), (0, 4, 8)])
def test_hc_pre_and_hc_head(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    streams, m, width = normal(*shape, dtype=dtype), shape[1], shape[1] * shape[2]
    for op, rows, scales, more in (("hc_pre", (2 + m) * m, 3, (20,)), ("hc_head", m, 1, ())):
        coefficients = 4 * width**-0.5 * normal(rows, width, seed=1), normal(scales, seed=2), normal(rows, seed=3)
        got = getattr(ops, op)(streams.npu(), *(c.npu() for c in coefficients), 1e-6, 1e-6, *more)
        exact = getattr(reference, op)(streams.double(), *(c.double() for c in coefficients), 1e-6, 1e-6, *more)
        for mine, wanted in zip(*(t if isinstance(t, tuple) else (t,) for t in (got, exact)), strict=True):
            assert mine.shape == wanted.shape
            if mine.numel():
                assert_close(mine, wanted, dtype if mine.dim() == 2 and mine.shape[1] == shape[2] else torch.float32)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(9, 4, 128), (1, 64, 64), (0, 4, 32)])
def test_indexer_query(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    q, positions, freqs = normal(*shape, dtype=dtype), torch.arange(shape[0]) * 1000, rope_frequencies(32, 160000.0)
    where = positions.npu(), freqs.npu()
    rotated = ops.rope(q.npu(), *where)
    assert torch.equal(ops.indexer_query(q.npu(), *where, False).cpu(), rotated.cpu())
    wanted = round_fp4(reference.hadamard(rotated.cpu()))
    assert torch.equal(ops.indexer_query(q.npu(), *where, True).cpu(), wanted)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(9, 64, 128), (3, 2048), (5, 1), (0, 8)])
def test_hadamard(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = normal(*shape, dtype=dtype)
    got = ops.hadamard(x.npu())
    assert got.shape == x.shape
    if x.numel():
        assert_close(got, reference.hadamard(x.double()), dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(9, 300), (1, 4097), (0, 8), (4, 0)])
def test_swiglu(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    gate, up = 8 * normal(*shape, dtype=dtype), 8 * normal(*shape, dtype=dtype, seed=1)
    for weights, limit in ((normal(shape[0], seed=2), 10.0), (None, 0.0)):
        got = ops.swiglu(gate.npu(), up.npu(), None if weights is None else weights.npu(), limit)
        assert got.shape == gate.shape
        if gate.numel():
            exact = reference.swiglu(gate.double(), up.double(), None if weights is None else weights.double(), limit)
            assert_close(got, exact, dtype)


def test_an_attention_leaves_turning_back_to_rope() -> None:
    args = [a.npu() if isinstance(a, torch.Tensor) else a for a in problem("window_attention", 48, False, False)]
    turn = torch.tensor([150, 151, 152, 290]).npu(), rope_frequencies(32, 160000.0).npu()
    turned = ops.rope(ops.window_attention(*args), *turn, inverse=True)
    assert torch.equal(ops.window_attention(*args, *turn).cpu(), turned.cpu())


def test_launches_follow_what_the_stream_and_the_host_queue_hold() -> None:
    x = torch.zeros(64, 512, device="npu")
    for _ in range(30):
        x += 1
    y = ops.rms_norm(x, None, 0.0)
    x.fill_(7)
    assert (y == 1).all().item()
    with torch.npu.stream(torch.npu.Stream()):
        z = ops.rms_norm(torch.full((3, 16), 2.0, device="npu"), None, 0.0) * 2
    torch.npu.synchronize()
    assert (z == 2).all().item()


def test_what_a_kernel_does_not_take_is_the_references_under_the_fallback_policy() -> None:
    half, weight = normal(3, 8, dtype=torch.float16).npu(), normal(8).npu()
    with pytest.raises(RuntimeError, match=r'v4npu\.fallback is "error"'):
        ops.rms_norm(half, weight, 1e-6)
    narrow = problem("window_attention", 40, False, False)  # the kernel wants heads of a multiple of 16
    many = (*arguments("indexer_topk")[:7], 2049, False)  # and at most 2048 picks
    for op, args in (("window_attention", narrow), ("indexer_topk", many)):
        with pytest.raises(RuntimeError, match=r'v4npu\.fallback is "error"'):
            getattr(ops, op)(*(a.npu() if isinstance(a, torch.Tensor) else a for a in args))
    with v4npu.fallback("warn"), pytest.warns(RuntimeWarning, match="the plain torch reference runs on npu"):
        assert ops.rms_norm(half, weight, 1e-6).dtype == torch.float16
    with v4npu.fallback("allow"), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        q, _ = ops.act_quant(normal(2, 30).npu(), 12)  # the kernel wants blocks of a multiple of 8
    assert q.shape == (2, 30)


@pytest.fixture
def acl() -> ctypes.CDLL:
    library = ctypes.CDLL("libascendcl.so")
    library.aclGetRecentErrMsg.restype = ctypes.c_char_p
    return library


def test_bad_launches_are_named(acl: ctypes.CDLL) -> None:
    binary, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert acl.aclrtBinaryLoadFromFile(b"/nonexistent.so", None, ctypes.byref(binary)) != 0
    assert b"not a kernel binary for the emulated chip" in acl.aclGetRecentErrMsg()
    path = os.environ["V4NPU_ASCEND_KERNELS"].encode()
    assert acl.aclrtBinaryLoadFromFile(path, None, ctypes.byref(binary)) == 0
    assert acl.aclrtBinaryGetFunction(binary, b"rms_norm_fp12", ctypes.byref(function)) != 0
    assert b"the binary has no kernel rms_norm_fp12" in acl.aclGetRecentErrMsg()
    assert acl.aclrtBinaryGetFunction(binary, b"rms_norm_fp32", ctypes.byref(function)) == 0
    x = torch.ones(2, 1 << 20, device="npu")

    def launched(*words: int) -> bytes | None:
        packed = (ctypes.c_int64 * len(words))(*words)
        size = ctypes.c_size_t(ctypes.sizeof(packed))
        zero = ctypes.c_size_t(0)
        acl.aclrtLaunchKernelWithHostArgs(function, 1, None, None, packed, size, None, zero)
        acl.aclrtSynchronizeStream(None)
        return acl.aclGetRecentErrMsg()

    one = 0x3F800000  # as a float
    assert launched(x.data_ptr(), 0, x.data_ptr(), 2, 16, one) is None
    assert b"takes 44 bytes of arguments, got 24" in (launched(x.data_ptr(), 0, 0) or b"")
    assert b"argument 2 is not memory of the device" in (launched(x.data_ptr(), 0, 64, 2, 16, one) or b"")
    assert b"out of bounds" in (launched(x.data_ptr(), 0, x.data_ptr(), 2, 1 << 40, one) or b"")

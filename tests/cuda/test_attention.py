"""The attentions on the emulated GPU: ragged sequences, packed rows, long lists, official rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from v4npu import _C, reference
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.attention import CU_SEQLENS, OPS, RATIO, SMALL, Shape, alone, problem
from v4npu.testing.cases import int32
from v4npu.testing.compare import complaint, oracle_args
from v4npu.testing.cuda import GPUS, ROOT, EmulatedGpu
from v4npu.testing.tolerances import ERROR_RATIO


def laid(args: tuple[Any, ...], over: int, shift: int = 0) -> tuple[Any, ...]:
    """The arguments with pages that begin `over` bytes more than a multiple of 16 apart, the first one `shift` behind
    one; NaN between them."""
    moved = list(args)
    for i in (1, 3) if args[3].dim() > 1 else (1,):
        size, element = args[i][0].numel(), args[i].element_size()
        apart = (-(-size * element // 16) * 16 + over) // element
        pool = torch.full((len(args[i]) * apart * element + shift,), 0xFF, dtype=torch.uint8)
        pages = pool[shift:].view(args[i].dtype).view(-1, apart)[:, :size].unflatten(1, args[i].shape[1:])
        moved[i] = pages.copy_(args[i])
    return tuple(moved)


@pytest.mark.parametrize("packed,official", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dim", [80, 512])
@pytest.mark.parametrize("op", OPS)
def test_ragged_sequences(gpu: EmulatedGpu, op: str, dim: int, packed: bool, official: bool) -> None:
    args = problem(op, dim, packed, official)
    (got,) = gpu.run(op, args)
    assert gpu.launches()
    naive = getattr(reference, op)(*args)
    exact = getattr(reference, op)(*oracle_args(op, problem(op, dim, False, official, rounded=packed)))
    allowed = 1.5 * (naive.double() - exact).abs().max() + 2.0**-9 * exact.abs().max()
    assert (got.double() - exact).abs().max() <= allowed


@pytest.mark.parametrize("op", OPS)
def test_a_token_alone_has_the_same_bits(gpu: EmulatedGpu, op: str) -> None:
    args = problem(op, 80, True, True)
    (together,) = gpu.run(op, args)
    for b, i, t in ((0, 1, 1), (2, 0, 3)):
        (one,) = gpu.run(op, alone(op, args, b, t, SMALL.starts[b] + i))
        assert torch.equal(one, together[t : t + 1])


@pytest.mark.parametrize("op", OPS)
def test_float32(gpu: EmulatedGpu, op: str) -> None:
    """Close to float64, turned back as by rope, and the same bits alone."""
    args = problem(op, 80, False, False, dtype=torch.float32)
    (got,) = gpu.run(op, args)
    assert [launch[0] for launch in gpu.launches()] == [op + "_fp32"]
    exact = getattr(reference, op)(*oracle_args(op, args))
    assert not complaint(got, getattr(reference, op)(*args), exact, ERROR_RATIO[op])
    turn = (torch.tensor([150, 151, 152, 290]), rope_frequencies(24, 160_000.0))
    assert torch.equal(gpu.run(op, (*args, *turn))[0], gpu.run("rope", (got, *turn, True))[0])
    assert torch.equal(gpu.run(op, alone(op, args, 0, 1, SMALL.starts[0] + 1))[0], got[1:2])


# Lists of 600 places or so: 5 segments, which one token spreads over 5 blocks, 30 over 4 and 67 over one.
@pytest.mark.parametrize(
    "op,official", [("window_attention", False), ("csa_attention", True), ("hca_attention", False)]
)
def test_blocks_that_share_a_list_leave_no_trace(gpu: EmulatedGpu, op: str, official: bool) -> None:
    start = {"window_attention": 700, "csa_attention": 2200, "hca_attention": 2020}[op]
    window = 600 if op == "window_attention" else 70
    args = problem(op, 80, True, official, shape=Shape((67,), (start,), window, 530, heads=5))
    results, positions, freqs = {}, torch.arange(start, start + 67), rope_frequencies(24, 160_000.0)

    def of_first(tokens: int, *turn: torch.Tensor) -> torch.Tensor:
        first = [a[:tokens] if i == 0 or (i == 5 and op == "csa_attention") else a for i, a in enumerate(args)]
        first[CU_SEQLENS[op]] = int32(0, tokens)
        return gpu.run(op, (*first, *turn))[0]

    for tokens, parts in ((67, "1"), (30, "4"), (1, "5")):
        results[tokens] = of_first(tokens)
        attend, *combine = gpu.launches()
        assert attend[1:4] == [str(tokens), "1", parts]
        assert [c[0] for c in combine] == ([] if parts == "1" else [op + "_combine"])
    assert torch.equal(results[30], results[67][:30]) and torch.equal(results[1], results[67][:1])
    # Turned back by the block of a whole list, and by the one that joins its parts.
    for tokens in (67, 1) if op == "csa_attention" else (1,):
        turn = (positions[:tokens], freqs)
        assert torch.equal(of_first(tokens, *turn), gpu.run("rope", (results[tokens], *turn, True))[0])


@pytest.mark.parametrize("places", [4_096, 4_097, 5_000])
def test_a_list_of_thousands(gpu: EmulatedGpu, places: int) -> None:
    shape = Shape((1,), ((places - 70) * RATIO,), heads=3)
    args = problem("hca_attention", 80, False, False, shape=shape)
    (got,) = gpu.run("hca_attention", args)
    assert gpu.launches()[0][3] == "32"
    exact = reference.hca_attention(*oracle_args("hca_attention", args))
    naive = reference.hca_attention(*args)
    allowed = 1.5 * (naive.double() - exact).abs().max() + 2.0**-9 * exact.abs().max()
    assert (got.double() - exact).abs().max() <= allowed


@pytest.mark.parametrize("op,dim,packed", [
    ("window_attention", 512, True), ("csa_attention", 512, True), ("hca_attention", 512, False),
    ("csa_attention", 72, False), ("hca_attention", 16, True),
])  # fmt: skip
def test_rows_that_come_ahead_leave_no_trace(gpu: EmulatedGpu, op: str, dim: int, packed: bool) -> None:
    args = problem(op, dim, packed, False)
    results, shared = [], []
    for over, shift in ((0, 0), (2, 0), (8, 0), (0, 2)):
        results.append(gpu.run(op, laid(args, over, shift))[0])
        shared.append(int(gpu.launches()[0][5]))
    assert all(torch.equal(results[0], other) for other in results[1:])
    rows = 64 * (dim + SMALL.rope + 16 if packed else 2 * dim)
    assert [shared[0] - other for other in shared[1:]] == [rows] * 3


# 10 blocks of places, of which four are looked up at once; a block has them all, or two.
@pytest.mark.parametrize("op,start", [("window_attention", 700), ("csa_attention", 2200), ("hca_attention", 2020)])
def test_rows_of_a_long_list_come_ahead(gpu: EmulatedGpu, op: str, start: int) -> None:
    window = 600 if op == "window_attention" else 70
    args = problem(op, 80, True, True, shape=Shape((67,), (start,), window, 530, heads=5))
    (ahead,) = gpu.run(op, laid(args, 0))
    assert gpu.launches()[0][3] == "1"
    assert torch.equal(gpu.run(op, laid(args, 2))[0], ahead)
    for t in (0, 66):
        (one,) = gpu.run(op, alone(op, laid(args, 0), 0, t, start + t))
        assert gpu.launches()[0][3] == "5" and torch.equal(one, ahead[t : t + 1])


WITH_LITTLE_ROOM = """
import sys, torch
from pathlib import Path
from v4npu.testing.cuda import GPUS, EmulatedGpu
gpu = EmulatedGpu(Path(sys.argv[1]), GPUS["RTX 4090"])
for name in sys.argv[2:]:
    args = torch.load(name, weights_only=True)
    torch.save((gpu.run("csa_attention", args)[0], gpu.launches()), name)
"""


def test_some_rows_come_ahead_where_there_is_room_for_some(gpu: EmulatedGpu, tmp_path: Path) -> None:
    want = {}
    for packed in (False, True):
        shape = Shape((1, 0, 1), (600, 5, 290), 70, 130, rope=64)
        args = laid(problem("csa_attention", 512, packed, False, shape=shape), 0)
        want[packed], name = gpu.run("csa_attention", args)[0], str(tmp_path / f"{packed}")
        torch.save(args, name)
    command = [sys.executable, "-c", WITH_LITTLE_ROOM, str(gpu.cache), *(str(tmp_path / f"{p}") for p in want)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for packed, rows in ((False, 3), (True, 5)):
        got, launches = torch.load(tmp_path / f"{packed}", weights_only=True)
        assert torch.equal(got, want[packed])
        assert int(launches[0][5]) == 76_288 + 8 * rows * (592 if packed else 1024)


@pytest.mark.parametrize("packed", [False, True])
def test_every_barrier_of_a_long_list_is_missed(gpu: EmulatedGpu, packed: bool) -> None:
    args = laid(problem("hca_attention", 80, packed, False), 0)
    gpu.run("hca_attention", args)
    barriers = gpu.barriers()
    assert len(barriers) == 6  # for copies, three of the block, of the warp once it has looked up and widened rows
    for barrier in barriers:
        with pytest.raises(RuntimeError, match="race: "):
            gpu.run("hca_attention", args, ignored_barrier=barrier)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_a_row_that_is_not_visible_is_never_read(gpu: EmulatedGpu, op: str, packed: bool) -> None:
    args = list(laid(problem(op, 80, packed, True), 0))
    (want,) = gpu.run(op, args)
    for i, rows, first in ((2, 8, lambda start: start - SMALL.window + 1), (4, 3, lambda start: 0)):
        if i == 4 and op == "window_attention":
            continue
        args[i] = args[i].clone()
        for b, (start, length) in enumerate(zip(SMALL.starts, SMALL.lengths, strict=True)):
            end = (start + length) // (1 if i == 2 else RATIO)
            args[i][b, : max(first(start), 0) // rows] = args[i][b, -(-end // rows) :] = 1 << 30  # pages that are not
    assert torch.equal(gpu.run(op, args)[0], want)


def test_a_pick_behind_the_table_is_none(gpu: EmulatedGpu) -> None:
    args = list(problem("csa_attention", 80, False, False))
    (want,) = gpu.run("csa_attention", args)
    args[5] = args[5].clone()
    args[5][:, ::7] = 2**31 - 1
    assert torch.equal(gpu.run("csa_attention", args)[0], want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("op", OPS)
def test_a_position_behind_the_tables_touches_nothing_else(gpu: EmulatedGpu, op: str, dtype: torch.dtype) -> None:
    args = list(problem(op, 80, False, False, shape=Shape((1,), (600,), 16), dtype=dtype))
    args[CU_SEQLENS[op] + 1] = int32(1 << 20)
    (got,) = gpu.run(op, args)  # of hca_attention by two blocks, with rows of the last page that nothing has written
    assert got.isfinite().all() or op == "hca_attention"


@pytest.mark.parametrize("dtype,packed", [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float32, False)])
def test_no_picks_are_no_entries(gpu: EmulatedGpu, dtype: torch.dtype, packed: bool) -> None:
    args = problem("csa_attention", 80, packed, False, dtype=dtype)
    (got,) = gpu.run("csa_attention", (*args[:5], args[5][:, :0], *args[6:]))
    assert gpu.launches()
    assert torch.equal(got, gpu.run("window_attention", (*args[:3], *args[6:]))[0])


@pytest.mark.parametrize("op", OPS)
def test_packed_pages_at_odd_addresses_are_the_references(gpu: EmulatedGpu, op: str) -> None:
    args = list(problem(op, 80, True, False))
    (want,) = gpu.run(op, args)
    for i in (1, 3) if op != "window_attention" else (1,):
        pages, size = args[i], args[i][0].numel()
        apart = torch.zeros(len(pages), size + 1, dtype=torch.uint8)[:, :size].unflatten(1, pages.shape[1:])
        odd = [*args[:i], apart.copy_(pages), *args[i + 1 :]]
        (got,) = gpu.run(op, odd)
        assert not gpu.launches() and (got.double() - want.double()).abs().max() <= 2.0**-7 * want.abs().max()


def test_a_list_is_spread_while_blocks_have_a_multiprocessor_each(invented: _C.DeviceCaps) -> None:
    for tokens in (0, 1, 2, 16, 17, 128, 4096):
        for tiles in (1, 4, 8):
            for segments in (1, 2, 5, 9, 32):
                parts = _C.plan_gpu_attention_parts(tokens, tiles, segments, invented)
                assert 1 <= parts <= segments
                assert parts == 1 or parts * tokens * tiles <= invented.num_cores
                if 1 < segments and 0 < tokens and 2 * tokens * tiles <= invented.num_cores:
                    assert parts == segments or (parts + 1) * tokens * tiles > invented.num_cores


# The two kinds of rows of a V4 head, and what a block has besides (backends/cuda/device/shape.h)
@pytest.mark.parametrize("row,other", [(8 * 592, 76_544), (8 * 1024, 76_544), (8 * 32, 24_000)])
def test_a_plan_has_the_rows_ahead_that_find_room(invented: _C.DeviceCaps, row: int, other: int) -> None:
    rows = _C.plan_gpu_staged_rows(row, other, 8, invented)
    assert 0 <= rows <= 8 and rows * row + other <= invented.shared_bytes
    assert rows == 8 or (rows + 1) * row + other > invented.shared_bytes
    assert rows == 8 or invented.shared_bytes == GPUS["RTX 4090"].shared_bytes
    assert _C.plan_gpu_staged_rows(row, invented.shared_bytes, 8, invented) == 0

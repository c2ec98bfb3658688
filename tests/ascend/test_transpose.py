"""Loads that transpose on the way to L0A and L0B, by a product of two matrices that are stored the other way round.

Those of 8 and 4 bits with scales are in test_cube_mx.py.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from fault_list import mutant
from test_kernels import ARCHS, normal

from v4npu.emulated_kernels import Source, skus
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

TEXT = Path(__file__).with_name("transpose.asc").read_text()
TYPES = {"fp16": torch.float16, "fp32": torch.float32, "e4m3": torch.float8_e4m3fn}

# name: (text, replacement, message)
FAULTS = {
    "no squares": (
        "params(0, kSquares,", "params(0, 0,", r"LoadDataWithTranspose at transpose\.asc:\d+ \(pipe MTE1\): no squares",
    ),
    "squares beyond L1": (
        "params(0, kSquares,", "params(9, kSquares,",
        r"LoadDataWithTranspose at .* overflows by \d+ bytes: 32 from byte",
    ),
    "destination at 32 bytes": (
        "AscendC::LoadDataWithTranspose(out, in, params);", "AscendC::LoadDataWithTranspose(out[8], in, params);",
        r"LoadDataWithTranspose at .*: misaligned, byte 32 of the \w+ queue of .* is not a multiple of 512 bytes",
    ),
    "rows that were never loaded": (
        "AscendC::Nd2NzParams(1, kStep,", "AscendC::Nd2NzParams(1, kStep - 1,",
        r"Mmad at transpose\.asc:\d+ \(pipe M\) reads byte \d+ of the [AB]2 queue of .*, which nothing has written",
    ),
}  # fmt: skip
TO_L0A = ("if constexpr (kLeft) {", "if constexpr (!kLeft) {", "3510 transposes this way to L0B only")


@pytest.fixture(scope="module")
def kernels(cache):
    @functools.cache
    def built(arch):
        # the host calls every kernel of a text, and 2201 has no e4m3
        both = Source("transpose.asc", TEXT[: TEXT.index("#if __NPU_ARCH__ == 3510\nextern")])
        source = Source("transpose.asc", TEXT) if arch == 3510 else both
        faults = [*FAULTS.values(), TO_L0A]
        mutants = [mutant(both, fault, "transposed_fp32", f"_{i}", arch) for i, fault in enumerate(faults)]
        return Kernels([source, *mutants], arch, cache)

    return lambda sku: built(skus()[sku])


def product(kernels, sku, kind, k, suffix="", **options):
    a, b = (normal(k, 64, seed=seed).to(TYPES[kind]) for seed in (0, 1))
    out = torch.full((64, 64), torch.nan)
    stored = (In(t.view(torch.uint8) if kind == "e4m3" else t) for t in (a, b))
    report = kernels(sku).launch(f"transposed_{kind}{suffix}", sku, 1, *stored, Out(out), k, **options)
    return out.double(), a.double().T @ b.double(), report


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("sku,kind", [(sku, kind) for sku in ARCHS for kind in ("fp16", "fp32")] + [(ARCHS[1], "e4m3")])
def test_product(kernels, sku, kind, k):
    out, exact, _ = product(kernels, sku, kind, k * (32 if kind == "e4m3" else 16))
    assert (out - exact).abs().max() <= 1e-4


@pytest.mark.parametrize("sku,cycles", [(ARCHS[0], 2), (ARCHS[1], 8)])
def test_modelled_rate_of_float(kernels, sku, cycles):
    """Fractals of 16 x 8 values by 8 x 16: 4 values of k a cycle on 2201, one on 3510 (documented)."""
    ghz = {ARCHS[0]: 1.85, ARCHS[1]: 1.8}[sku]
    busy = product(kernels, sku, "fp32", 64)[2].modelled_busy_us["M"]
    assert busy == pytest.approx(4 * 4 * (64 / 8) * cycles / (ghz * 1e3))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault(kernels, sku, fault):
    with pytest.raises(KernelFault, match=FAULTS[fault][2]):
        product(kernels, sku, "fp32", 32, f"_{list(FAULTS).index(fault)}")


def test_3510_transposes_to_l0a_by_its_other_load(kernels):
    with pytest.raises(KernelFault, match=TO_L0A[2]):
        product(kernels, ARCHS[1], "fp32", 32, f"_{len(FAULTS)}")


@pytest.mark.parametrize("sku", ARCHS)
def test_every_wait_is_missed(kernels, sku):
    # MTE1 loads both operands in order, so the wait for the second implies that for the first.
    implied = ("a2 = a2_queue_", "AllocTensor<T>()")
    for wait in product(kernels, sku, "fp16", 64)[2].waits:
        line = TEXT.splitlines()[int(wait.split(":")[1]) - 1]
        try:
            product(kernels, sku, "fp16", 64, ignored_wait=wait)
        except KernelFault as fault:
            assert re.search(
                r"race: .* at transpose\.asc:\d+ \(pipe .* that .* at transpose\.asc:\d+ .*: no ", str(fault)
            )
        else:
            assert any(text in line for text in implied), f"{wait} orders nothing: {line.strip()}"

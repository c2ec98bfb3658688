"""The cube core of the 950 on operands of 8 and 4 bits, with scales and without, by a matmul; its faults and peaks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fault_list import mutant

from v4npu.emulated_kernels import Source
from v4npu.testing.ascend import In, KernelFault, Kernels, Out

SKU = "ascend950dt_9581"
MX = Source("mx_matmul.asc", Path(__file__).with_name("mx_matmul.asc").read_text())
E4M3, E5M2, E2M1 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float4_e2m1fn_x2
ENTRIES = {
    "mx_e4m3_e4m3": (E4M3, E4M3), "mx_e5m2_e4m3": (E5M2, E4M3), "mx_e2m1_e2m1": (E2M1, E2M1),
    "fp8_e4m3_e5m2": (E4M3, E5M2),
}  # fmt: skip

# name: (text, replacement, message)
FAULTS = {
    "k not padded to the scales": (
        "params(rows, columns, depth,", "params(rows, columns, depth - 32,",
        r"MmadMx at .*: k is 96, not a multiple of 64",
    ),
    "a single row taken for a vector": (
        "params.disableGemv = true;", "params.disableGemv = rows > 1;",
        r"MmadMx at .*: one row with scales is emulated with disableGemv only",
    ),
    "scales of another half of L0A": (
        "static_cast<uint8_t>(height), width, width, width)", "static_cast<uint8_t>(height), 1, width, width)",
        r"MmadMx at mx_matmul\.asc:\d+ \(pipe M\) reads byte \d+ of L0A_MX, which nothing has written",
    ),
    "scales beyond L0A_MX": (
        "static_cast<uint8_t>(height), width, width, width)", "static_cast<uint8_t>(height), width, width, 2000)",
        r"LoadData at .* overflows by \d+ bytes: 32 from byte \d+ of L0A_MX",
    ),
    "operand at 512 bytes": (
        "AscendC::MmadMx(sum, a2, b2, params);", "AscendC::MmadMx(sum, a2[512], b2, params);",
        r"misaligned, L0A and L0B want 1024 bytes, L0C 1024",
    ),
}  # fmt: skip


def codes(dtype, rows, k, seed):
    """Random codes without NaN and infinity, and their values."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is E2M1:
        raw = torch.randint(0, 256, (rows, k // 2), generator=generator, dtype=torch.uint8)
        table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
        return raw, table[torch.stack((raw & 15, raw >> 4), -1).flatten(1).long()]
    raw = torch.randint(0, 256, (rows, k), generator=generator, dtype=torch.uint8)
    raw[~raw.view(dtype).double().isfinite()] = 0x11
    return raw, raw.view(dtype).double()


def scales(rows, k, seed):
    raw = torch.randint(117, 137, (rows, k // 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return raw, (raw.double() - 127).exp2().repeat_interleave(32, 1)


@pytest.fixture(scope="module")
def kernels(cache):
    mutants = [mutant(MX, fault, "mx_e4m3_e4m3", f"_{number}") for number, fault in enumerate(FAULTS.values())]
    return Kernels([MX, *mutants], 3510, cache)


def multiply(kernels, entry, m, n, k, suffix="", num_blocks=1, **options):
    kinds = ENTRIES[entry]
    (a, exact_a), (b, exact_b) = codes(kinds[0], m, k, 1), codes(kinds[1], n, k, 2)
    (sa, factor_a), (sb, factor_b) = scales(m, k, 3), scales(n, k, 4)
    if entry.startswith("mx"):
        exact_a, exact_b = exact_a * factor_a, exact_b * factor_b
    out = torch.full((m, n), torch.nan)
    arguments = (In(a), In(sa), In(b), In(sb), Out(out), m, n, k)
    report = kernels.launch(entry + suffix, SKU, num_blocks, *arguments, **options)
    return out.double(), exact_a @ exact_b.T, exact_a.abs() @ exact_b.abs().T, report


@pytest.mark.parametrize("sizes", [(1, 16, 64), (16, 16, 128), (17, 80, 192), (100, 48, 320), (64, 64, 512)])
@pytest.mark.parametrize("entry", ENTRIES)
def test_product(kernels, entry, sizes):
    m, n, k = sizes
    for num_blocks in (1, 2):
        out, exact, size, _ = multiply(kernels, entry, m, n, k, num_blocks=num_blocks)
        assert ((out - exact).abs() <= k * 2**-24 * size).all()  # fp32 sums of k exact products


@pytest.mark.parametrize("n,k", [(16, 64), (48, 320), (64, 512)])
@pytest.mark.parametrize("entry", ["mx_e4m3", "mx_e2m1"])
def test_product_of_a_transposed_operand(kernels, entry, n, k):
    """The same product, bit for bit, of a matrix stored as [k, m]."""
    kind = E2M1 if entry == "mx_e2m1" else E4M3
    (a, _), (b, _), sa, sb = codes(kind, 64, k, 1), codes(kind, n, k, 2), scales(64, k, 3)[0], scales(n, k, 4)[0]
    outs = [torch.full((64, n), torch.nan) for _ in range(2)]
    if kind is E2M1:
        values = torch.stack((a & 15, a >> 4), -1).flatten(1).T
        turned = values[:, ::2] | values[:, 1::2] << 4
    else:
        turned = a.T.contiguous()
    straight = f"{entry}_{entry.removeprefix('mx_')}"
    for name, left, out in ((straight, a, outs[0]), (f"{entry}_transposed", turned.contiguous(), outs[1])):
        kernels.launch(name, SKU, 1, In(left), In(sa), In(b), In(sb), Out(out), 64, n, k)
    assert torch.equal(*outs) and outs[0].isfinite().all()


def test_a_broken_scale_spoils_its_rows_alone(kernels):
    a, _ = codes(E4M3, 16, 64, 1)
    sa, sb = torch.full((16, 2), 127, dtype=torch.uint8), torch.full((16, 2), 127, dtype=torch.uint8)
    sa[5, 1] = 255
    out = torch.zeros(16, 16)
    kernels.launch("mx_e4m3_e4m3", SKU, 1, In(a), In(sa), In(a), In(sb), Out(out), 16, 16, 64)
    assert out.isnan().any(1).tolist() == [row == 5 for row in range(16)]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(kernels, fault):
    with pytest.raises(KernelFault, match=FAULTS[fault][2]):
        multiply(kernels, "mx_e4m3_e4m3", 1 if "single" in fault else 20, 16, 128, f"_{list(FAULTS).index(fault)}")


def test_every_wait_is_missed(kernels):
    # MTE1 loads both operands, and MTE2 brings codes before scales: the later wait implies the earlier one. Scales are
    # given back before their codes, whose wait therefore covers them.
    implied = (
        "LocalTensor<T> a2 = a2_queue_", "l0_queue.template AllocTensor", "in = queue.template DeQue",
        "pairs = scale_queue.template AllocTensor",
    )  # fmt: skip
    for wait in multiply(kernels, "mx_e4m3_e4m3", 40, 32, 640)[3].waits:
        line = MX.text.splitlines()[int(wait.split(":")[1]) - 1]
        try:
            multiply(kernels, "mx_e4m3_e4m3", 40, 32, 640, ignored_wait=wait)
        except KernelFault as fault:
            assert re.search(
                r"race: .* at mx_matmul\.asc:\d+ \(pipe .* that .* at mx_matmul\.asc:\d+ .*: no ", str(fault)
            )
        else:
            assert any(text in line for text in implied), f"{wait} orders nothing: {line.strip()}"


# "fp8 K=32, mxfp4 K=64" a cycle: twice and four times the 432.5 TFLOP/s of 32 cores at 1.65 GHz in 16 bits
@pytest.mark.parametrize("entry,peak", [("mx_e4m3_e4m3", 865e12), ("fp8_e4m3_e5m2", 865e12), ("mx_e2m1_e2m1", 1730e12)])
def test_modelled_peak(kernels, entry, peak):
    busy = multiply(kernels, entry, 64, 64, 512)[3].modelled_busy_us["M"] * 1e-6
    assert 2 * 64 * 64 * 512 / busy * 32 == pytest.approx(peak, rel=2e-3)

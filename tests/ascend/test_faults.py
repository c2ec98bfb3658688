"""Seeded faults: each is found by the emulator and named, with the lines that matter."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from fault_list import CUBE, DOUBLING, EXPERTS, RMS_NORM, message, mutant
from small_runs import normal, small_run
from test_kernels import ARCHS
from test_mixed import FAULTS as MIXED

from v4npu.emulated_kernels import Source, skus
from v4npu.kernel_cache import ASCEND
from v4npu.testing.ascend import In, InOut, KernelFault, Kernels, Out
from v4npu.testing.ascend_ops import OPS, EmulatedOps

SMALL, PAIRS = (Source(name, Path(__file__).with_name(name).read_text()) for name in ("faults.asc", "pairs.asc"))
OVERFLOW = Source(
    "faults.asc",
    SMALL.text.replace("x_[row * n_", "x_[static_cast<int32_t>(row * n_ + (int64_t{1} << 31))"),
    "_int32",
)

# What the emulator must find -> the faults that stand for it, and where each is run on both architectures: the lists of
# fault_list.py and of test_mixed.py below and there, `pairs` and `tails` by tests of this file.
WANTED = {
    "dropped WaitFlag on every pipe pair used": {"pairs": [], "doubling": ["V does not wait for MTE2"]},
    "swapped event ids": {"doubling": ["swapped event ids"]},
    "queue depth exceeded": {"rms_norm": ["queue depth exceeded"]},
    "UB overflow by 32 bytes": {"doubling": ["UB overflows by 32 bytes", "buffer overflows by 32 bytes"]},
    "L1 overflow by 32 bytes": {
        "cube": [
            "L1 overflows by 32 bytes",
            "buffer in L1 overflows by 32 bytes",
            "tensor placed by hand overflows L1 by 32 bytes",
        ]
    },
    "L0 overflow by 32 bytes": {
        "cube": [f"{what}L0{m} overflows by 32 bytes" for what in ("", "buffer in ") for m in "ABC"]
    },
    "misaligned copy": {
        "doubling": ["copy of half a block", "copy to an odd address"],
        "rms_norm": ["padded copy to an odd address"],
        "cube": ["misaligned load"],
    },
    "read of unwritten UB": {"doubling": ["read of unwritten UB"], "cube": ["read of unwritten L1"]},
    "out-of-bounds GM read": {
        "doubling": ["read behind a global tensor", "read behind an argument"],
        "cube": ["read behind a global tensor"],
    },
    "out-of-bounds GM write": {
        "doubling": ["write behind a global tensor", "write before an argument"],
        "cube": ["write behind an argument"],
    },
    "AIC/AIV deadlock": {"mixed": ["vector cores set another flag", "one vector core stays silent"]},
    "int32 offset overflow past 2^31 bytes": {"tails": []},
}


def test_every_fault_that_is_wanted_is_on_a_list_and_on_both_architectures():
    lists = {"doubling": DOUBLING, "cube": CUBE, "rms_norm": RMS_NORM, "mixed": MIXED, "pairs": {}, "tails": {}}
    assert len(WANTED) == 12
    assert not [(item, kernel, name) for item, by_kernel in WANTED.items() for kernel, names in by_kernel.items()
                for name in names if name not in lists[kernel]]  # fmt: skip
    assert sorted(skus()[sku] for sku in ARCHS) == [2201, 3510]


@pytest.fixture(scope="module")
def faulty(cache):
    """faulty(entry, sku): the kernels, a version for each of their faults among them; {fault: version} of this one."""

    @functools.cache
    def built(arch):
        versions, norm = {}, Source.of("rms_norm", arch)
        lists = {"doubling": (SMALL, DOUBLING), "cube_pair": (PAIRS, CUBE), "rms_norm_bf16": (norm, RMS_NORM)}
        lists["moe_experts_route_fp32"] = (Source.of("moe_experts"), EXPERTS)
        for entry, (source, faults) in lists.items():
            for name, fault in faults.items():
                versions[entry, name] = mutant(source, fault, entry, f"_{len(versions)}", arch)
        return Kernels([SMALL, PAIRS, OVERFLOW, *versions.values()], arch, cache), versions

    def of(entry, sku):
        kernels, versions = built(skus()[sku])
        return kernels, {name: version for (of, name), version in versions.items() if of == entry}

    return of


@pytest.mark.parametrize("sku", ARCHS)
def test_the_small_kernel_is_right_as_it_stands(faulty, sku):
    x, out = normal(256), torch.full((256,), torch.nan)
    faulty("doubling", sku)[0].launch("doubling", sku, 1, In(x), Out(out), 256)
    assert torch.equal(out, 2 * x)


@pytest.mark.parametrize("fault", DOUBLING)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault_of_the_small_kernel(faulty, sku, fault):
    kernels, versions = faulty("doubling", sku)
    entry = "doubling" + versions[fault].suffix
    expected = message(versions[fault], DOUBLING[fault][2])
    num_blocks = 2 if fault == "every block does everything" else 1
    with pytest.raises(KernelFault, match=f"^{entry} on {sku}, block [01]: {expected}"):
        kernels.launch(entry, sku, num_blocks, In(normal(256)), Out(torch.zeros(256)), 256)


@pytest.mark.parametrize("fault", CUBE)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault_of_the_cube_kernel(faulty, sku, fault):
    kernels, versions = faulty("cube_pair", sku)
    x, out = normal(256, dtype=torch.float16), torch.zeros(256)
    with pytest.raises(KernelFault, match=message(versions[fault], CUBE[fault][2])):
        kernels.launch("cube_pair" + versions[fault].suffix, sku, 1, In(x), Out(out), 4)


# The number of a pair in pairs.asc, and its event.
EVENTS = {(entry, int(number)): event
          for entry, text in re.findall(r"__aicore__ void (\w+)\((.*?)\n}", PAIRS.text, re.DOTALL)
          for number, event in re.findall(r"case (\d+): return ordered<\w+, HardEvent::(\w+),", text)}  # fmt: skip


def test_the_pairs_are_all_there_are():
    """Those that kernels name, those of queues (tpipe.h) and all others of the emulator but V_V, a PipeBarrier."""
    files = [*ASCEND.rglob("*.asc"), *ASCEND.glob("common/*.h"), *Path(__file__).parent.glob("*.asc")]
    used = {event for file in files for event in re.findall(r"HardEvent::(\w+)", file.read_text())}
    queues = set(re.findall(r"HardEvent::(\w+)", (ASCEND / "emulation/tpipe.h").read_text()))
    known = set(re.findall(r'Pipe::\w+, "(\w+)"', (ASCEND / "emulation/types.h").read_text()))
    assert used | queues <= known == set(EVENTS.values()) | {"V_V"} and len(EVENTS) == 18


@pytest.mark.parametrize("entry,number", EVENTS)
@pytest.mark.parametrize("sku", ARCHS)
def test_a_dropped_wait_of_every_pair(faulty, sku, entry, number):
    kernels = faulty("cube_pair", sku)[0]
    first, second = EVENTS[entry, number].split("_")
    place = next(i for i, line in enumerate(PAIRS.text.splitlines(), 1) if "WaitFlag<event>" in line)
    arguments = In(normal(256, dtype=torch.float16 if entry == "cube_pair" else torch.float32)), Out(torch.zeros(256))
    kernels.launch(entry, sku, 1, *arguments, number)
    expected = (
        rf"race: \w+.* \(pipe {second}\) (reads|writes) .* \(pipe {first}\) .*: no wait of {second} for {first} in"
    )
    with pytest.raises(KernelFault, match=expected):
        kernels.launch(entry, sku, 1, *arguments, number, ignored_wait=f"pairs.asc:{place}")


@pytest.mark.parametrize("fault", RMS_NORM)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault_of_rms_norm(faulty, sku, fault):
    kernels, versions = faulty("rms_norm_bf16", sku)
    x = normal(5, 301, dtype=torch.bfloat16)
    with pytest.raises(KernelFault, match=message(versions[fault], RMS_NORM[fault][2])):
        EmulatedOps(kernels, sku, 1, suffix=versions[fault].suffix).rms_norm(x, x[0], 1e-6)


@pytest.mark.parametrize("fault", EXPERTS)
@pytest.mark.parametrize("sku", ARCHS)
def test_fault_of_moe_experts(faulty, sku, fault):
    kernels, versions = faulty("moe_experts_route_fp32", sku)
    counts = torch.tensor([[1, 1, 0, 0], [2, 0, 0, 0]], dtype=torch.int32)
    inputs = In(normal(2, 8)), In(torch.tensor([[0, 1], [0, 0]], dtype=torch.int32)), In(normal(2, 2)), In(counts)
    sizes = {"starts": 5, "places": 4, "weights": 4, "rows": 32}
    outputs = [Out(torch.zeros(n, dtype=torch.float32 if name in ("weights", "rows") else torch.int32))
               for name, n in sizes.items()]  # fmt: skip
    with pytest.raises(KernelFault, match=message(versions[fault], EXPERTS[fault][2])):
        entry = "moe_experts_route_fp32" + versions[fault].suffix
        kernels.launch(entry, sku, 2, *inputs, *outputs, 2, 8, 2, 4)


@pytest.mark.parametrize("sku", ARCHS)
def test_a_core_that_runs_ahead_of_its_wait(faulty, sku):
    """A flag counts to 15. On 2201 a wait holds back every pipe of the core, so that no other wait is needed."""
    kernels = faulty("answers", sku)[0]
    place = next(i for i, line in enumerate(SMALL.text.splitlines(), 1) if "WaitFlag<HardEvent::MTE2_MTE3>" in line)
    kernels.launch("answers", sku, 1, 40)
    kernels.launch("answers", sku, 1, 15 if skus()[sku] == 3510 else 40, ignored_wait=f"faults.asc:{place}")
    if skus()[sku] == 3510:
        expected = (
            rf"CrossCoreSetFlag\(0\) at faults\.asc:{place - 6}: may be set 16 times and not waited for: nothing orders"
            rf" it behind the wait of AIV0 at faults\.asc:{place - 2}$"
        )
        with pytest.raises(KernelFault, match=expected):
            kernels.launch("answers", sku, 1, 16, ignored_wait=f"faults.asc:{place}")


# Calls that manage a buffer and whose order other waits of the kernel imply.
# Both operands of a product are loaded in order, so the wait for the second implies that for the first.
OPERANDS = ("a1_queue_.template DeQue", "a2 = a2_queue_.template DeQue", "b2 = b2_queue_.template AllocTensor")
IMPLIED = {
    "gate": ("x_queue_.template AllocTensor", "bias_queue_.template DeQue"),
    "hc_pre": tuple(f"{queue}_queue_.template AllocTensor" for queue in ("x", "post", "comb")),
    "compressor": ("ape_ = ape_queue_.template DeQue",),  # so does the wait for rows, which come after
    "hc_head": ("x_queue_.template AllocTensor",),
    **dict.fromkeys(("linear", "fp8_linear", "fp4_linear", "grouped_linear"), OPERANDS),
    "csa_attention": (  # the flags between the cores, and the waits for keys and for the right operand, imply the rest
        *(f"{queue}_queue_.template AllocTensor" for queue in ("score", "weight", "sink")),
        *(f"{queue}_queue_.template DeQue" for queue in ("left", "= q")),
    ),
    # Of q and keys the one that comes after implies the other; the last flags are taken that none be left.
    "indexer_scores": ("q1_queue_.template DeQue", "key2_queue_.template DeQue", "i < kDotSlots && i < step"),
}


# The attentions are one text (attention.h); csa_attention comes by all of it.
@pytest.mark.parametrize("op", [op for op in OPS if op not in ("window_attention", "hca_attention")])
@pytest.mark.parametrize("sku", ARCHS)
def test_every_wait_of_every_kernel_is_missed(emulated, sku, op):
    blocks = 3 if op == "moe_experts" else 1  # that count for each other
    waits = small_run(emulated(sku, blocks), op)[1]
    assert len(waits) > 8
    for wait in waits:
        file, line = wait.split(":")
        path = next(p for folder in ("ops", "common") if (p := ASCEND / folder / file).exists())
        text = path.read_text().splitlines()[int(line) - 1].strip()
        try:
            small_run(emulated(sku, blocks, ignored_wait=wait), op)
        except KernelFault as fault:
            assert re.search(r"race: .* at \w+.*:\d+ \(pipe .* that .* at .*:\d+ \(pipe .*: no ", str(fault)), fault
        else:
            assert any(implied in text for implied in IMPLIED.get(op, ())), f"{wait} orders nothing: {text}"


@pytest.mark.parametrize("sku", ARCHS)
def test_int32_overflow_of_an_offset(faulty, sku):
    """A row of more than 2^31 bytes, of which only the end is ever touched."""
    assert OVERFLOW.text != SMALL.text
    kernels = faulty("tails", sku)[0]
    n = 2**29 + 64
    x, out = torch.empty(n), torch.zeros(8)
    x[-8:] = torch.arange(8.0)
    kernels.launch("tails", sku, 1, In(x), Out(out), 1, n)
    assert out.tolist() == list(range(8))
    expected = r"is out of bounds: bytes -\d+ to -\d+ of x, which has \d+; a negative offset: an int32 overflow\?"
    with pytest.raises(KernelFault, match=expected):
        kernels.launch("tails_int32", sku, 1, In(x), Out(out), 1, n)


def test_refused_launches(emulated):
    kernels, x = emulated(ARCHS[0]).kernels, normal(1, 8)
    with pytest.raises(KernelFault, match="unknown SKU ascend910a"):
        EmulatedOps(kernels, "ascend910a").rms_norm(x, None, 1e-6)
    with pytest.raises(KernelFault, match="ascend950dt_9591 is of another architecture"):
        EmulatedOps(kernels, ARCHS[1]).rms_norm(x, None, 1e-6)
    with pytest.raises(KernelFault, match=r"number of blocks must be in 1\.\.65535"):
        EmulatedOps(kernels, ARCHS[0], 0).rms_norm(x, None, 1e-6)
    with pytest.raises(TypeError, match="takes 6 arguments, got 1"):
        kernels.launch("rms_norm_fp32", ARCHS[0], 1, InOut(x))

"""One small call of every kernel that takes all of its branches."""

from __future__ import annotations

import torch
from indexer_cases import indexer_case

from v4npu.reference.formats import act_quant, quantise_weight_fp4, quantise_weight_fp8
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.attention import Shape, problem
from v4npu.testing.cases import experts_problem


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def coefficients(op, m, d):
    """fn, scale and base of hc_pre or hc_head."""
    n, scales = ((2 + m) * m, 3) if op == "hc_pre" else (m, 1)
    return 4 * (m * d) ** -0.5 * normal(n, m * d, seed=1), normal(scales, seed=2), normal(n, seed=3)


def compressor_case(dim, quant, stored, num_tokens=17):
    """Two sequences of which one has a state to begin with; five entries, one more than there are."""
    kv, score, ape = (normal(n, 2 * dim, seed=i) for i, n in enumerate((num_tokens, num_tokens, 4)))
    where = torch.tensor([0, min(4, num_tokens), num_tokens]).int(), torch.tensor([6, 0]).int()
    states = normal(2, 2, 8, 2 * dim, seed=4), torch.arange(2).int()
    rest = (4, True, 1e-6, quant, min(5, num_tokens), torch.bfloat16, *stored)
    return kv, score, ape, normal(dim, seed=3), rope_frequencies(8, 10000.0), *where, *states, *rest


def small_run(ops, op):
    """Arguments that take every branch of a kernel; the outputs as one tuple."""
    bf16 = torch.bfloat16
    if op == "rms_norm":
        runs = [(normal(7, n, dtype=bf16), normal(n, dtype=bf16, seed=1), 1e-6) for n in (100, 9000)]
    elif op == "rope":
        x, freqs = normal(7, 70, 96, dtype=bf16), rope_frequencies(64, 10000.0)
        runs = [(x, torch.arange(7), freqs, False, in_place) for in_place in (False, True)]
    elif op == "gate":
        x, weight = normal(9, 4100, dtype=bf16), normal(11, 4100, dtype=bf16, seed=1)
        runs = [(x, weight, bias, 3, 1.5) for bias in (normal(11, seed=2), torch.full((11,), torch.inf))]
    elif op == "hash_gate":
        table, ids = torch.arange(33).view(3, 11) % 11, torch.tensor([2, 0, 1])
        runs = [(normal(3, 4100, dtype=bf16), normal(11, 4100, dtype=bf16, seed=1), table, ids, 1.5)]
    elif op == "hc_post":
        x, streams = normal(3, 2100, dtype=bf16), normal(3, 4, 2100, dtype=bf16, seed=1)
        runs = [(x, streams, normal(3, 4, seed=2), normal(3, 4, 4, seed=3))]
    elif op in ("hc_pre", "hc_head"):
        streams = normal(5, 4, 2100, dtype=bf16)
        runs = [(streams, *coefficients(op, 4, 2100), 1e-6, 1e-6, *([3] if op == "hc_pre" else []))]
    elif op == "indexer_query":
        runs = [(normal(9, 5, 128, dtype=bf16), torch.arange(9), rope_frequencies(64, 160000.0), True)]
    elif op == "qkv_prepare":  # packed rows and plain ones; a slot that is none and one behind the cache
        x, freqs = normal(7, 3, 96, dtype=bf16), rope_frequencies(32, 10000.0)
        given = (x, x[:, 1].contiguous(), normal(96, seed=1), torch.arange(7), freqs, 1e-6)
        slots = torch.tensor([5, -1, 0, 1, 6, 3, 2])
        packed, plain = (torch.zeros(2, 3, 136, dtype=torch.uint8), torch.zeros(2, 3, 96, dtype=bf16))
        runs = [(*given, True, packed, slots), (*given, False, plain, slots)]
    elif (
        op == "compressor"
    ):  # tiles of channels, rows of a state, an entry that is not there; packed keys of either kind
        pages = torch.zeros(2, 2, 36, dtype=torch.uint8), torch.arange(5)
        runs = [compressor_case(600, "none", ()), compressor_case(32, "hadamard_fp8", pages)]
    elif op == "hadamard":
        runs = [(normal(37, 128, dtype=bf16),)]
    elif op == "linear":  # panels of the depth of L1, and a ragged one; a product of one row
        x, weight = normal(37, 600, dtype=bf16), normal(40, 600, dtype=bf16, seed=1)
        runs = [(x, weight, bf16), (x[:1], weight[:3], torch.float32)]
    elif op == "grouped_linear":
        x, weight = normal(37, 2, 300, dtype=bf16), normal(2 * 40, 300, dtype=bf16, seed=1)
        runs = [(x, weight, None), (x, *quantise_weight_fp8(weight.float()))]
    elif op in ("fp8_linear", "fp4_linear"):  # more panels and tiles than slots
        quantise = quantise_weight_fp8 if op == "fp8_linear" else quantise_weight_fp4
        weight = quantise(normal(50, 800, seed=1))
        runs = [(normal(3, 800, dtype=bf16), None, *weight, bf16), (*act_quant(normal(3, 800), 128), *weight, bf16)]
    elif op == "indexer_scores":
        shared = ((3, 1500), (2, 700), (1, 8), (1, 8))  # tiles by queries that are taken together, and of one each
        runs = [indexer_case(bf16, 5, 70, shared, official=True), indexer_case(bf16, 1, 20, ((2, 700), (1, 0)))]
        runs += [indexer_case(bf16, 5, 32, shared, packed=packed) for packed in ("fp4", "fp8")]
    elif op == "indexer_topk":  # parts of several tiles; nothing to see
        runs = [(*indexer_case(bf16, 1, 16, lengths=((1, 16500), (1, 0)), official=True)[:-1], 40, True, 2, n)
                for n in (1, 2)]  # fmt: skip
    elif op.endswith("_attention"):  # tiles of several steps, of one and in two halves
        shape = Shape((1, 0, 1), (240, 5, 240), 40, 60, heads=20)
        runs = [problem(op, 144, packed, packed, shape=shape) for packed in (False, True)]
    elif op == "moe_experts":  # a choice out of range, and an expert that nobody chose
        args = experts_problem(7, 5, "fp4", d=64, width=32)
        args[1][args[1] == 2], args[1][3, 1] = 4, 5
        runs = [(*args, 10.0, True), (*args, 10.0, True, args[0])]
    elif op == "swiglu":
        gate, up, weights = normal(3, 9000, dtype=bf16), normal(3, 9000, dtype=bf16, seed=1), normal(3, seed=2)
        runs = [(gate, up, weights, 1.0), (gate, up, None, 0.0)]
    else:
        runs = [(normal(7, 4100, dtype=bf16), 128)]
    waits, results = set(), []
    for run in runs:
        result = getattr(ops, op)(*run)
        results += result if isinstance(result, tuple) else [result]
        waits.update(ops.report.waits)
    return results, waits

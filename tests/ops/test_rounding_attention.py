"""Official numerics of attention, compressor and indexer: the rounding points of their contracts, one by one.

As in test_rounding_points.py: float64 with the roundings of DeepSeek's code, and proof that each one is noticed.
FP4 values lie so far apart that a tie may move one by more than its size: there only the share of ties is bounded.
"""

import pytest
import torch

from v4npu import ops
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.cases import int32
from v4npu.testing.rounding import assert_rounded, bf16, fp4, fp8, norm, rope, unrounded

TIES = 0.002
FREQS = rope_frequencies(32, 10000.0)
WINDOW, TOKENS, HEADS, DIM = 128, 150, 4, 64
PICKED = 100


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(11)

    def normal(*shape, size=1.0):
        return (torch.randn(shape, generator=generator) * size).bfloat16()

    return normal


def attend(q, rows, sink, scale, p_cast=bf16, l_cast=unrounded, block=64, sink_in_max=False):
    """One query [H, D] over its list of rows (None: no such row), block by block as the official kernel goes."""
    keys = torch.stack([torch.zeros(DIM) if row is None else row for row in rows]).double()
    absent = torch.tensor([row is None for row in rows])
    m = sink.double() if sink_in_max else torch.full((len(q),), -torch.inf, dtype=torch.float64)
    total, out = torch.zeros_like(m), torch.zeros(q.shape).double()
    for part, gone in zip(keys.split(block), absent.split(block), strict=True):
        scores = (q.double() @ part.T * scale).masked_fill(gone, -torch.inf)
        new = torch.maximum(m, scores.amax(-1))
        p, rescale = torch.exp(scores - new[:, None]), torch.exp(m - new)
        total = total * rescale + l_cast(p).sum(-1)
        out = out * rescale[:, None] + p_cast(p) @ part
        m = new
    return out / (total + torch.exp(sink.double() - m))[:, None]


@pytest.mark.parametrize("op", ["window_attention", "csa_attention", "hca_attention"])
def test_attention(draw, op):
    """p is rounded relative to the running maximum of its 64-entry block, its sum is not, the sink joins last."""
    q, kv, entries = draw(TOKENS, HEADS, DIM, size=1.4), draw(1, TOKENS, DIM), draw(1, TOKENS, DIM)
    sink, scale = draw(HEADS).float() + 12, 0.5
    picks = torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(1)).argsort(-1)[:, :PICKED].int()
    table = int32(0).view(1, 1)
    pages = () if op == "window_attention" else (entries, table)
    listed = (picks,) if op == "csa_attention" else ()
    ratio = (2,) if op == "hca_attention" else ()
    where = (int32(0, TOKENS), int32(0), sink, scale, WINDOW)
    y = getattr(ops, op)(q, kv, table, *pages, *listed, *where, *ratio, 0, True)
    asked = list(range(90, TOKENS, 4))

    def rows_of(t):
        window = [kv[0, p] for p in range(max(0, t - WINDOW + 1), t + 1)]
        if op == "window_attention":
            return window
        picked = picks[t].tolist() if op == "csa_attention" else range((t + 1) // 2)
        return window + [None] * (WINDOW - len(window)) + [entries[0, e] for e in picked]

    def out(**how):
        return torch.stack([attend(q[t], rows_of(t), sink, scale, **how) for t in asked])

    without = {
        "unrounded p": bf16(out(p_cast=unrounded)),
        "sum of rounded p": bf16(out(l_cast=bf16)),
        "one block": bf16(out(block=10**6)),
        "blocks of 32": bf16(out(block=32)),
        "sink in the maximum": bf16(out(sink_in_max=True)),
        "no cast": out(),
    }
    assert_rounded(y[asked], bf16(out()), without, TIES, step=2.0**-4)  # a p on a tie moves a small output by more


def sylvester(x):
    """Orthonormal Walsh-Hadamard transform."""
    i = torch.arange(x.shape[-1])
    sign = torch.tensor([[1 - 2 * (int(a & b).bit_count() & 1) for b in i] for a in i]).double()
    return x.double() @ sign * x.shape[-1] ** -0.5


def fp8_row(x):
    return torch.cat((fp8(x[..., :-32], 64), x[..., -32:]), -1)


@pytest.mark.parametrize("quant", ["fp8", "hadamard_fp4"])
@pytest.mark.parametrize("ratio, overlap", [(4, True), (8, False)])
def test_compressor(draw, quant, ratio, overlap):
    """float32 up to the pooled entry; then cast, norm, cast, RoPE at the first token, cast, and the quantiser."""
    dim, count = (160, 24) if quant == "fp8" else (64, 480)
    width = dim * (1 + overlap)
    kv, score, ape = (draw(n, width).float() * 1.37 for n in (count * ratio, count * ratio, ratio))
    weight = draw(dim)
    where = (FREQS, int32(0, count * ratio), int32(0), None, None, ratio, overlap, 1e-6, quant, count, torch.bfloat16)
    y = ops.compressor(kv, score, ape, weight, *where)

    def pooled(k, z):
        k, z = (v.double().unflatten(0, (count, ratio)) for v in (k, z + ape.repeat(count, 1)))
        if overlap:  # the first half of the columns belongs to the next window
            before, scores_before = torch.zeros_like(k[:1, :, :dim]), torch.full_like(z[:1, :, :dim], -torch.inf)
            k = torch.cat((torch.cat((before, k[:-1, :, :dim])), k[..., dim:]), 1)
            z = torch.cat((torch.cat((scores_before, z[:-1, :, :dim])), z[..., dim:]), 1)
        return (z.softmax(1) * k).sum(1)

    def out(k=kv, z=score, pool=bf16, normed=bf16, turned=bf16, spread=bf16, at=0, rounded=True):
        row = turned(rope(normed(norm(pool(pooled(k, z)), weight)), torch.arange(count) * ratio + at, FREQS))
        if quant == "fp8":
            return fp8_row(row) if rounded else row
        return fp4(spread(sylvester(row))) if rounded else spread(sylvester(row))

    without = {
        "bf16 kv": out(k=bf16(kv).float()),
        "bf16 scores": out(z=bf16(score).float()),
        "no cast of the pool": out(pool=unrounded),
        "no cast of the norm": out(normed=unrounded),
        "no cast after RoPE": out(turned=unrounded),
        "RoPE at the last token": out(at=ratio - 1),
        "no quantiser": out(rounded=False),
    }
    if quant == "hadamard_fp4":
        without["no cast after Hadamard"] = out(spread=unrounded)
        without["no Hadamard"] = fp4(sylvester(out(spread=unrounded, rounded=False)))
    assert_rounded(y, out(), without, TIES / 8, step=torch.inf)


def test_indexer_query(draw):
    """RoPE, cast, Hadamard, cast, FP4 in blocks of 32."""
    q, positions = draw(64, 16, 64), torch.arange(64) * 999

    def out(turned=bf16, spread=bf16, block=32):
        return fp4(spread(sylvester(turned(rope(q, positions, FREQS)))), block)

    without = {
        "no cast after RoPE": out(turned=unrounded),
        "no cast after Hadamard": out(spread=unrounded),
        "one scale per row": out(block=64),
        "no FP4": bf16(sylvester(bf16(rope(q, positions, FREQS)))),
    }
    assert_rounded(ops.indexer_query(q, positions, FREQS, True), out(), without, TIES / 8, step=torch.inf)


def test_hadamard_casts_once():
    x = torch.randint(-255, 256, (64, 64), generator=torch.Generator().manual_seed(3)).bfloat16()
    stages = x.double()
    for half in (1, 2, 4, 8, 16, 32):  # butterflies, each rounded
        a, b = stages.unflatten(-1, (-1, 2, half)).unbind(-2)
        stages = bf16(torch.stack((a + b, a - b), -2).flatten(-3))
    without = {"casts of the stages": stages / 8, "no cast": sylvester(x)}
    assert_rounded(ops.hadamard(x), bf16(sylvester(x)), without)


def test_index_scores():
    """Dot, product and sum are each rounded to bfloat16; the sum over heads itself runs in float32."""
    generator = torch.Generator().manual_seed(5)
    q, keys = (torch.randint(-6, 7, shape, generator=generator).bfloat16() for shape in ((32, 8, 64), (1, 40, 64)))
    w = (torch.rand(32, 8, generator=generator) + 1).bfloat16()
    where = (int32(0).view(1, 1), int32(0, 32), int32(1000), 4, True)

    def terms(dot=bf16, product=bf16):
        return product(dot(torch.einsum("thd,sd->ths", q.double(), keys[0].double())).relu() * w.double()[..., None])

    running = torch.zeros(32, 40).double()
    for h in range(8):
        running = bf16(running + terms()[:, h])
    without = {
        "no cast of the dot": bf16(terms(dot=unrounded).sum(1)),
        "no cast of the product": bf16(terms(product=unrounded).sum(1)),
        "no cast of the sum": terms().sum(1),
        "casts of the running sum": running,
        "float32 throughout": terms(unrounded, unrounded).sum(1),
    }
    assert_rounded(ops.indexer_scores(q, w, keys, *where), bf16(terms().sum(1)), without)

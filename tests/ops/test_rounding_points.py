"""Official numerics: every rounding point of the contracts, one by one.

Each test spells an operator out in float64 with the roundings of DeepSeek's code, and shows that leaving any one of
them out would be noticed. Where the inputs are small integers float32 is exact, and equality is demanded of every bit.
"""

import pytest
import torch

from v4npu import ops, reference
from v4npu.reference.formats import quantise_weight_fp4, quantise_weight_fp8
from v4npu.reference.rope import rope_frequencies
from v4npu.testing.rounding import assert_rounded, bf16, fp8, fp32, inverse_rms, norm, rope, unrounded

EPS = 1e-6
TIES = 0.002


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(7)

    def normal(*shape, size=1.0):
        return (torch.randn(shape, generator=generator) * size).bfloat16()

    return normal


def integers(top, *shape):
    return torch.randint(-top, top + 1, shape, generator=torch.Generator().manual_seed(top)).double()


FREQS = rope_frequencies(32, 10000.0)
POSITIONS = torch.tensor([0, 3, 77, 4095, 65537, 1000003])


def test_rms_norm_casts_once(draw):
    x, w = draw(6, 512), draw(512)
    without = {
        "cast before the weight": bf16(bf16(x * inverse_rms(x)) * w.double()),
        "bf16 statistic": bf16(x * bf16(inverse_rms(x)) * w),
    }
    assert_rounded(ops.rms_norm(x, w, EPS), bf16(norm(x, w)), without, TIES)


@pytest.mark.parametrize("op", ["hc_pre", "hc_head"])
def test_collapse_of_the_streams(draw, op):
    h, rows = draw(16, 4, 64), 24 if op == "hc_pre" else 4
    fn, scale, base = draw(rows, 256, size=0.1).float(), draw(3).float()[: rows // 8 or 1], draw(rows).float()
    extra = (20,) if op == "hc_pre" else ()
    y = getattr(ops, op)(h, fn, scale, base, EPS, 1e-6, *extra)
    if op == "hc_pre":
        y, post, comb = y
        assert post.dtype == comb.dtype == torch.float32
    flat = h.double().flatten(1)
    m = flat @ fn.double().T * inverse_rms(flat)
    pre = torch.sigmoid(m[:, :4] * scale[0].double() + base[:4].double()) + 1e-6

    def mixed(p):
        return (p.unsqueeze(-1) * h.double()).sum(1)

    rounded_norm = bf16(bf16(m / inverse_rms(flat)) * inverse_rms(flat))
    coarse = torch.sigmoid(rounded_norm[:, :4] * scale[0].double() + base[:4].double()) + 1e-6
    without = {"bf16 mixes": bf16(mixed(bf16(pre))), "bf16 product": bf16(mixed(coarse)), "no cast": mixed(pre)}
    assert_rounded(y, bf16(mixed(pre)), without, TIES)
    w = draw(64)  # the norm behind it reads the rounded sum
    without = {"no cast between": bf16(norm(mixed(pre), w))}
    assert_rounded(ops.rms_norm(y, w, EPS), bf16(norm(bf16(mixed(pre)), w)), without, TIES)
    if op == "hc_pre":
        exact = 2 * torch.sigmoid(m[:, 4:8] * scale[1].double() + base[4:8].double())
        assert (post - exact).abs().max() < 1e-6 < (bf16(exact) - exact).abs().max()


def test_hc_post_casts_once(draw):
    f, h, post, comb = draw(16, 64), draw(16, 4, 64), draw(16, 4).float() * 1.1, draw(16, 4, 4).float() * 1.1

    def out(post, comb, cast=unrounded):
        own = cast(post.double()[:, :, None] * f.double()[:, None])
        return own + cast(torch.einsum("tjk,tjd->tkd", comb.double(), h.double()))

    without = {
        "casts of the terms": bf16(out(post, comb, bf16)),
        "bf16 post": bf16(out(bf16(post), comb)),
        "bf16 comb": bf16(out(post, bf16(comb))),
        "no cast": out(post, comb),
    }
    assert_rounded(ops.hc_post(f, h, post, comb), bf16(out(post, comb)), without, TIES)


@pytest.mark.parametrize("kind", ["fp8", "fp4"])
def test_quantised_linear(kind):
    """x is quantised per 128; the product of all blocks is summed in float32 and cast once."""
    # A scale only shows where a block has far larger neighbours; half of the outputs do not read those.
    x = (integers(31, 8, 384) * torch.tensor([1.0, 1.0, 2.0**13]).repeat_interleave(128)).bfloat16()
    w = integers(1, 48, 384)
    w[:24, 256:] = 0
    quantised = (quantise_weight_fp8 if kind == "fp8" else quantise_weight_fp4)(w)
    a = ops.act_quant(x)
    y = getattr(ops, f"{kind}_linear")(*a, *quantised, torch.bfloat16)
    parts = [fp8(x, 128)[:, s] @ w[:, s].T for s in map(slice, (0, 128, 256), (128, 256, 384))]
    without = {
        "unquantised x": bf16(x.double() @ w.T),
        "one scale per row": bf16(fp8(x, 384) @ w.T),
        "casts of the blocks": bf16(sum(map(bf16, parts))),
        "no cast": sum(parts),
    }
    assert_rounded(y, bf16(sum(parts)), without)


@pytest.mark.parametrize("where", [ops, reference], ids=["kernel", "reference"])
def test_query_head_norm_is_all_bf16(draw, where):
    # 96 statistics fill whole vectors: beside those, torch's CPU rsqrt rounds twice.
    q, small = draw(6, 16, 96, size=3.0), draw(6, 16, 96, size=1e-3)

    def out(q=q, square=bf16, mean=bf16, root=bf16, product=bf16, rotated=bf16, eps=EPS):
        statistic = root(torch.rsqrt(mean(mean(square(q.double().square()).mean(-1, keepdim=True)) + eps)))
        return rotated(rope(product(q.double() * statistic), POSITIONS, FREQS))

    rest = (draw(6, 96), draw(96), POSITIONS, FREQS, EPS, True)
    without = {
        "float32 statistic": bf16(rope(bf16(q.double() * inverse_rms(q)), POSITIONS, FREQS)),
        "unrounded squares": out(square=unrounded),
        "unrounded mean": out(mean=unrounded),
        "unrounded root": out(root=unrounded),
        "no cast before RoPE": out(product=unrounded),
        "no cast after RoPE": out(rotated=unrounded),
    }
    assert_rounded(where.qkv_prepare(q, *rest)[0], out(), without, TIES)
    rounded_eps = {"bf16 eps": out(small, eps=bf16(torch.tensor(EPS)))}
    assert_rounded(where.qkv_prepare(small, *rest)[0], out(small), rounded_eps, TIES)


@pytest.mark.parametrize("inverse", [False, True])
def test_rope(draw, inverse):
    x, sign = draw(6, 8, 96), -1 if inverse else 1
    without = {
        "bf16 sine and cosine": bf16(rope(x, POSITIONS, FREQS, cos_sin=bf16, sign=sign)),
        "unrounded angle": bf16(rope(x, POSITIONS, FREQS, angle=unrounded, sign=sign)),
        "no cast": rope(x, POSITIONS, FREQS, sign=sign),
        "the other way": bf16(rope(x, POSITIONS, FREQS, sign=-sign)),
    }
    assert_rounded(ops.rope(x, POSITIONS, FREQS, inverse), bf16(rope(x, POSITIONS, FREQS, sign=sign)), without, TIES)


def kv_row(x, w, positions, cast=bf16, rotated=bf16, block=64, rope_dims=32):
    """norm, RoPE, FP8 of all but the rotated dims."""
    row = rotated(rope(cast(norm(x, w)), positions, FREQS))
    keep = row.shape[-1] - rope_dims
    return torch.cat((fp8(row[..., :keep], block), row[..., keep:]), -1)


def test_kv_row(draw):
    kv, w = draw(6, 160), draw(160) * torch.tensor([1.0, 4096.0, 1.0]).repeat_interleave(64)[:160].bfloat16()
    _, got = ops.qkv_prepare(draw(6, 2, 160), kv, w, POSITIONS, FREQS, EPS, True)
    without = {
        "no cast after the norm": kv_row(kv, w, POSITIONS, cast=unrounded),
        "no cast after RoPE": kv_row(kv, w, POSITIONS, rotated=unrounded),
        "one scale per 128": kv_row(kv, w, POSITIONS, block=128),
        "FP8 of the rotated dims": kv_row(kv, w, POSITIONS, block=32, rope_dims=0),
        "no FP8": bf16(rope(bf16(norm(kv, w)), POSITIONS, FREQS)),
    }
    assert_rounded(got, kv_row(kv, w, POSITIONS), without, TIES, 2.0**-3)


def test_grouped_linear_does_not_quantise(draw):
    """wo_a is stored as FP8 but read as bfloat16; its input is not quantised, its output is cast once."""
    x, w = integers(100, 6, 2, 128), integers(7, 48, 128)
    parts = torch.stack([x[:, j] @ w[24 * j : 24 * (j + 1)].T for j in range(2)], 1)
    coarse = torch.stack([fp8(x, 128)[:, j] @ w[24 * j : 24 * (j + 1)].T for j in range(2)], 1)
    without = {"quantised input": bf16(coarse), "no cast": parts}
    assert_rounded(ops.grouped_linear(x.bfloat16(), *quantise_weight_fp8(w)), bf16(parts), without)


@pytest.mark.parametrize("op", ["gate", "hash_gate"])
def test_gate_is_float32(draw, op):
    x, w, bias = draw(64, 128), draw(8, 128, size=0.2), draw(8).float() * 0.1
    table = torch.rand(10, 8, generator=torch.Generator().manual_seed(2)).argsort(-1)[:, :3]
    ids = torch.arange(64) % 10
    more = (bias, 3) if op == "gate" else (table, ids)
    picks, weights = getattr(ops, op)(x, w, *more, 1.5)

    def out(logits=unrounded, score=unrounded, share=unrounded):
        s = score(torch.nn.functional.softplus(logits(x.double() @ w.double().T)).sqrt()).gather(-1, picks.long())
        return share(s / s.sum(-1, keepdim=True)) * 1.5

    assert weights.dtype == torch.float32
    assert (weights - out()).abs().max() < 1e-6
    for how in ("logits", "score", "share"):
        assert (weights - out(**{how: bf16})).abs().max() > 1e-4, how


def test_swiglu_casts_once(draw):
    a, u, w = draw(16, 128, size=4.0), draw(16, 128, size=4.0), draw(16).float() * 1.1

    def out(inner=unrounded, weight=unrounded, limit=3.0):
        y = inner(torch.nn.functional.silu(a.double().clamp(max=limit)) * u.double().clamp(-limit, limit))
        return y * weight(w)[:, None]

    without = {
        "cast before the weight": bf16(out(inner=bf16)), "bf16 weight": bf16(out(weight=bf16)),
        "no clamp": bf16(out(limit=1e9)), "no cast": out(),
    }  # fmt: skip
    assert_rounded(ops.swiglu(a, u, w, 3.0), bf16(out()), without, TIES)


def test_experts(draw):
    """Quantised tokens; w1, w3 cast; weighted and cast; quantised again; w2 cast; summed in float32."""
    x, limit = draw(48, 128, size=0.1), 3.0
    picks = torch.rand(48, 4, generator=torch.Generator().manual_seed(4)).argsort(-1)[:, :3]
    weights = torch.rand(48, 3, generator=torch.Generator().manual_seed(5))
    w1, w3, w2 = (integers(4, 4, 128, 128).roll(n, -1) for n in range(3))  # exact in FP4
    stored = [part for w in (w1, w3, w2) for part in quantise_weight_fp4(w)]

    def q8(v):
        return fp8(v, 128)

    def out(tokens=q8, gemm=bf16, hidden=bf16, again=q8, down=bf16, total=fp32, late=False):
        made = torch.zeros(48, 128).double()
        for e in range(4):
            row, slot = torch.where(picks == e)
            share = weights[row, slot].double()[:, None]
            a, u = (gemm(tokens(x)[row] @ w[e].T) for w in (w1, w3))
            h = torch.nn.functional.silu(a.clamp(max=limit)) * u.clamp(-limit, limit)
            y = down(again(hidden(h if late else h * share)) @ w2[e].T)
            made[row] = total(made[row] + (y * share if late else y))
        return made

    without = {
        "unquantised tokens": out(tokens=unrounded),
        "no cast of w1 and w3": out(gemm=unrounded),
        "no cast before the quantiser": out(hidden=unrounded),
        "unquantised hidden": out(again=unrounded),
        "no cast of w2": out(down=unrounded),
        "bf16 sum": out(total=bf16),
        "weight after w2": out(late=True),
    }
    y = ops.moe_experts(x, picks.int(), weights, *stored, limit, True)
    assert y.dtype == torch.float32
    assert_rounded(y, out(), without, 0.05, step=torch.inf)  # a tie before w2 reaches every output of its token

"""Official numerics between the operators: what the model casts, shares and leaves wide."""

from types import SimpleNamespace

import pytest
import torch

import v4npu
from v4npu import checkpoint, ops
from v4npu.model.config import Config
from v4npu.model.linear import Activation, Linear
from v4npu.reference.formats import quantise_weight_fp8
from v4npu.testing.rounding import assert_rounded, bf16, fp8, inverse_rms, norm, unrounded

CONFIG = Config(
    vocab_size=64, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, q_lora_rank=64, o_groups=2,
    n_routed_experts=4, moe_intermediate_size=128, compress_ratios=(0, 4), head_dim=64, qk_rope_head_dim=32,
    o_lora_rank=32, sliding_window=16, index_n_heads=8, index_head_dim=64, index_topk=4, num_experts_per_tok=2,
    num_hash_layers=0, max_position_embeddings=512, num_nextn_predict_layers=0,
)  # fmt: skip
IDS = (torch.arange(48) * 11 % 64)[None]
TIES = 0.002


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("rounding") / "model"
    checkpoint.random(path, CONFIG, seed=2)
    return v4npu.load(path, device="cpu")


def watched(model, *modules):
    """Input and output of submodules during one forward, and everything that the model traces."""
    seen, hooks = {}, []
    for name in modules:
        module = model.get_submodule(name)
        hooks.append(
            module.register_forward_hook(lambda _, given, made, name=name: seen.update({name: (given[0], made)}))
        )
    try:
        with torch.inference_mode():
            model(IDS, trace=lambda name, value: seen.update({name: value.clone()}))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def test_one_quantisation_serves_several_linears(monkeypatch):
    calls = []
    monkeypatch.setattr(ops, "act_quant", lambda *args: calls.append(args) or torch.ops.v4npu.act_quant(*args))
    x = torch.randint(-31, 32, (6, 128), generator=torch.Generator().manual_seed(0)).bfloat16()
    shared = Activation(x, official=True)
    for rows in (8, 32, 200):
        linear, w = Linear(128, rows, torch.bfloat16), torch.randint(-3, 4, (rows, 128)).double()
        weight, linear.scale = quantise_weight_fp8(w)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        assert_rounded(linear(shared), bf16(fp8(x, 128) @ w.T), {"unquantised": bf16(x.double() @ w.T)})
        assert torch.equal(linear(Activation(x, official=False)), bf16(x.double() @ w.T).bfloat16()), (
            "exact: not quantised"
        )
    assert len(calls) == 1


def test_norm_reads_the_rounded_collapse(model):
    seen = watched(model, "norm", "layers.0.attn_norm")
    for name in ("norm", "layers.0.attn_norm"):
        x, y = seen[name]
        assert x.dtype == torch.bfloat16
        w, root = model.get_submodule(name).weight, inverse_rms(x, CONFIG.rms_norm_eps)
        assert_rounded(y, bf16(norm(x, w)), {"two casts": bf16(bf16(x.double() * root) * w.double())}, TIES)


def test_compressor_gate_and_head_multiply_in_float32():
    """bf16 inputs and weights, float32 product: rounding either side to bfloat16 would show."""
    x = torch.randint(-200, 201, (6, 128), generator=torch.Generator().manual_seed(1)).bfloat16()
    linear, w = Linear(128, 32, torch.bfloat16), torch.randint(-9, 10, (32, 128)).bfloat16()
    linear.weight = torch.nn.Parameter(w, requires_grad=False)
    product = x.double() @ w.double().T
    assert linear.wide(x).dtype == torch.float32
    assert_rounded(linear.wide(x), product, {"bf16 product": bf16(product)})
    assert_rounded(linear(Activation(x, official=True)), bf16(product), {"no cast": product})


def test_index_weights_are_scaled_after_the_cast(model):
    seen = watched(model, "layers.1.attn.indexer.weights_proj")
    given, made = seen["layers.1.attn.indexer.weights_proj"]
    scale = 64**-0.5 * 8**-0.5
    w = model.layers[1].attn.indexer.weights_proj.weight
    without = {
        "cast after scaling alone": bf16(given.x.double() @ w.double().T * scale),
        "unrounded": made.double() * scale,
    }
    assert_rounded(seen["layers.1.index_weights"], bf16(made.double() * scale), without, TIES)


def test_output_projection_is_quantised_only_at_wo_b(model):
    """wo_b reads the FP8 of what wo_a made; wo_a quantises nothing, as its operator's test shows."""
    given, made = watched(model, "layers.0.attn.wo_b")["layers.0.attn.wo_b"]
    linear = model.layers[0].attn.wo_b
    w = linear.weight.double() * torch.exp2(linear.scale.view(torch.uint8).double() - 127)
    assert linear.scale.numel() == 1 and given.x.dtype == torch.bfloat16
    padded = torch.nn.functional.pad(given.x, (0, 64))
    expected = bf16(fp8(padded, 128)[:, :64] @ w.T)
    assert_rounded(made, expected, {"unquantised": bf16(given.x.double() @ w.T)}, TIES)


def test_shared_expert_is_added_in_float32(model):
    ffn, x = model.layers[0].ffn, watched(model)["layers.0.gate_input"]
    with torch.inference_mode():
        y = ffn(x, SimpleNamespace(note=lambda *_: None))
        e, gate = ffn.experts, ffn.gate(x, None)
        stored = [part for w in (e.w1, e.w3, e.w2) for part in (w.weight, w.scale)]
        routed = ops.moe_experts(x, *gate, *stored, CONFIG.swiglu_limit, True)
        shared = ffn.shared_experts(Activation(x, True))
    assert (routed.dtype, shared.dtype) == (torch.float32, torch.bfloat16)
    total = routed.double() + shared.double()
    without = {"cast before the sum": bf16(bf16(routed) + shared.double()), "no cast": total}
    assert_rounded(y, bf16(total), without, TIES)


def test_shared_expert(model):
    """w1 and w3 read one quantisation and are cast; silu(a) u is cast, quantised, and w2 is cast."""
    x, expert = watched(model)["layers.0.gate_input"], model.layers[0].ffn.shared_experts

    def matrix(linear):
        return linear.weight.double() * torch.exp2(linear.scale.view(torch.uint8).double() - 127)

    def out(tokens=fp8, gemm=bf16, hidden=bf16, again=fp8):
        a, u = (gemm(tokens(x, 128) @ matrix(w).T) for w in (expert.w1, expert.w3))
        limit = CONFIG.swiglu_limit
        h = hidden(torch.nn.functional.silu(a.clamp(max=limit)) * u.clamp(-limit, limit))
        return bf16(again(h, 128) @ matrix(expert.w2).T)

    def as_it_is(v, _):
        return v.double()

    without = {
        "unquantised input": out(tokens=as_it_is), "no cast of w1 and w3": out(gemm=unrounded),
        "no cast before the quantiser": out(hidden=unrounded), "unquantised hidden": out(again=as_it_is),
    }  # fmt: skip
    with torch.inference_mode():
        y = expert(Activation(x, True))
    assert_rounded(y, out(), without, 0.1, step=torch.inf)  # a tie before w2 reaches every output of its token


def test_logits_are_float32(model):
    x = watched(model, "norm")["norm"][1]
    with torch.inference_mode():
        logits = model(IDS)[0]
    exact = x.double() @ model.head.weight.double().T
    assert logits.dtype == torch.float32
    bound = 1e-6 * exact.abs().max()
    assert (logits - exact).abs().max() < bound < (bf16(exact) - exact).abs().max()

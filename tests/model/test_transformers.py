"""Exact float32 numerics against transformers' DeepseekV4ForCausalLM, over random configurations."""

import random

import pytest
import torch

import v4npu
from v4npu.loader import load
from v4npu.testing.compare import max_error

transformers = pytest.importorskip("transformers", reason="transformers is the oracle here")
BOUND = 2e-5
MARGIN = 1e-5
SEEDS = range(40)
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 127, 128, 129, 255, 256, 257, 130, 131, 132, 133, 33, 50]


def configuration(seed):
    """A small random configuration; what they cover together is what the first test demands."""
    draw = random.Random(seed)
    ratios = [0, 4, 128, draw.choice([0, 4, 128])]
    draw.shuffle(ratios)
    return {
        "vocab_size": 97, "hidden_size": 64, "moe_intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "head_dim": draw.choice([32, 48]), "qk_rope_head_dim": 16, "q_lora_rank": 40,
        "num_experts_per_tok": 2, "n_routed_experts": 6, "o_groups": 2, "o_lora_rank": 24,
        "index_n_heads": 16, "index_head_dim": 32, "index_topk": draw.choice([5, 512]),
        "sliding_window": draw.choice([8, 128]), "compress_ratios": ratios,
        "compress_rate_hca": draw.choice([8, 16, 128]), "num_hash_layers": draw.choice([0, 1, 2]),
        "swiglu_limit": draw.choice([0.05, 10.0]), "num_nextn_predict_layers": 0,
        "rope_theta": 10000.0, "compress_rope_theta": 160000.0,
        "rope_scaling": {
            "type": "yarn", "rope_type": "yarn", "factor": draw.choice([4, 16]), "beta_fast": 32, "beta_slow": 1,
            "original_max_position_embeddings": draw.choice([64, 65536]),
        } if seed % 10 != 2 else None,
    }  # fmt: skip


def oracle(config, seed):
    """transformers' model with shaped random weights; tables and biases are filled by hand."""
    torch.manual_seed(seed)
    module = transformers.models.deepseek_v4
    hf_config = module.DeepseekV4Config(**config)
    hf = module.DeepseekV4ForCausalLM._from_config(hf_config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for p in hf.parameters():
            if p.dim() > 1:
                p.normal_(0, p.shape[-1] ** -0.5)
            else:
                p.add_(torch.randn_like(p) * 0.1)
        for name, buffer in hf.named_buffers():
            if "tid2eid" in name:
                buffer.copy_(torch.rand(len(buffer), 6).argsort(-1)[:, :2])
            if "correction_bias" in name:
                buffer.normal_(0, 0.1)
    return hf


def clear_positions(model, ids):
    """How many leading positions of each sequence lie before its first near-tied pick of indexer or gate."""
    seen = {}
    model(ids, trace=seen.__setitem__)
    batch, length = ids.shape
    clear = torch.ones(batch * length, dtype=torch.bool)
    for i, layer in enumerate(model.layers):
        if layer.attn.indexer is not None:
            q, w, keys = (seen[f"layers.{i}.index_{part}"] for part in ("query", "weights", "keys"))
            keys = keys.repeat_interleave(length, 0)  # one set of keys per query
            scores = (torch.einsum("thd,tnd->thn", q, keys).relu() * w.unsqueeze(-1)).sum(1)
            visible = (torch.arange(length).repeat(batch) + 1) // layer.attn.ratio
            hidden = torch.arange(scores.shape[1]) >= visible.unsqueeze(1)
            clear &= has_margin(scores.masked_fill(hidden, -torch.inf), model.config.index_topk)
        gate = layer.ffn.gate
        if gate.bias is not None:
            scores = torch.nn.functional.softplus(seen[f"layers.{i}.gate_input"] @ gate.weight.T).sqrt() + gate.bias
            clear &= has_margin(scores, model.config.num_experts_per_tok)
    return clear.view(batch, length).long().cumprod(1).sum(1).tolist()


def has_margin(scores, k):
    """Whether the k-th and the next score of each row differ by more than MARGIN."""
    if scores.shape[1] <= k:
        return torch.ones(scores.shape[0], dtype=torch.bool)
    top = scores.topk(k + 1).values
    return (top[:, k] == -torch.inf) | (top[:, k - 1] - top[:, k] > MARGIN)


def agree(mine, other, lengths):
    """Equality to BOUND of the leading positions of each sequence."""
    for a, b, n in zip(mine, other, lengths, strict=True):
        if n:
            assert max_error(a[:n], b[:n]) < BOUND


def length_of(seed):
    return LENGTHS[seed % len(LENGTHS)]


def test_the_configurations_cover_what_they_should():
    drawn = [(length_of(seed), configuration(seed)) for seed in SEEDS]
    lengths = {length for length, _ in drawn}
    assert {127, 128, 129, 255, 256, 257} <= lengths
    assert {n % 4 for n in lengths if n < 9} == {n % 4 for n in lengths if n > 9} == set(range(4))
    hca = {c["compress_rate_hca"] for length, c in drawn if 128 in c["compress_ratios"] and length >= 128}
    assert hca == {8, 16, 128}  # shrunk and official ratios, each with an entry to see
    positions = set()  # under YaRN beyond and within the original context, and without YaRN
    for length, c in drawn:
        original = (c["rope_scaling"] or {}).get("original_max_position_embeddings")
        if any(c["compress_ratios"]) and length > 100:
            positions.add(original and length > original)
    assert positions == {None, True, False}
    binding = [4 in c["compress_ratios"] and length // 4 > c["index_topk"] for length, c in drawn]
    assert sum(binding) > 5 and sum(not b for b in binding) > 5
    for key, values in (("num_hash_layers", {0, 1, 2}), ("swiglu_limit", {0.05, 10.0}), ("sliding_window", {8, 128})):
        assert {c[key] for _, c in drawn} == values


@pytest.fixture(scope="module", params=SEEDS)
def pair(request, tmp_path_factory):
    seed = request.param
    config = configuration(seed)
    hf = oracle(config, seed)
    folder = tmp_path_factory.mktemp("transformers")
    hf.save_pretrained(folder)
    model = load(folder, dtype="float32", numerics="exact")
    batch, length = 1 + seed % 3, length_of(seed)
    candidates = []
    for attempt in range(8):  # the prompt of these whose picks hang least on rounding
        ids = torch.randint(0, config["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(attempt))
        with torch.inference_mode():
            candidates.append((clear_positions(model, ids), ids))
    lengths, ids = max(candidates, key=lambda c: sum(c[0]))
    assert sum(lengths) >= min(batch * length, 8)
    print(f"compared {sum(lengths)} of {batch * length} positions")
    return hf, model, ids, lengths


@torch.inference_mode()
def test_logits(pair):
    """Ours against theirs, and theirs once v4npu.enable has them, bit for bit ours."""
    hf, model, ids, lengths = pair
    mine = model(ids)
    agree(mine, hf(ids, use_cache=False).logits, lengths)
    assert torch.equal(v4npu.enable(hf)(ids).logits, mine)


@torch.inference_mode()
def test_decode_equals_prefill(pair):
    _, model, ids, lengths = pair
    whole = model(ids)
    cache = model.new_cache(ids.shape[0], ids.shape[1])
    first = 100 if ids.shape[1] > 200 else 1  # of the longest, the first positions are the others' too
    parts = [model(ids[:, :first], cache=cache)]
    parts += [model(ids[:, t : t + 1], cache=cache) for t in range(first, ids.shape[1])]
    agree(torch.cat(parts, dim=1), whole, lengths)


@torch.inference_mode()
def test_chunks_equal_prefill(pair):
    _, model, ids, lengths = pair
    draw = random.Random(ids.shape[1])
    cache, at, parts = model.new_cache(ids.shape[0], ids.shape[1]), 0, []
    while at < ids.shape[1]:
        size = draw.choice([1, 2, 3, 5, 31, 64, 130])
        parts.append(model(ids[:, at : at + size], cache=cache))
        at += size
    agree(torch.cat(parts, dim=1), model(ids), lengths)

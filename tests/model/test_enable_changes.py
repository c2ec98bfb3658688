"""v4npu.enable on models that are not, or do not stay, what transformers builds: no change is ignored."""

import copy

import pytest
import torch
from test_enable import BOUND, GREEDY, plain, tokens  # noqa: F401  plain is a fixture
from test_transformers import configuration, oracle
from torch import nn

import v4npu
from v4npu.testing.compare import max_error

transformers = pytest.importorskip("transformers", reason="transformers is what is enabled here")


def logits(hf, ids):
    with torch.inference_mode():
        return hf(ids).logits


def lora(linear):
    linear.lora_A = nn.Linear(linear.in_features, 2, bias=False)
    patched(linear, lambda x: x)


def patched(module, then):
    """Its forward, and `then`."""
    forward = module.forward
    module.forward = lambda *args, **kwargs: then(forward(*args, **kwargs))


class Tripled(nn.Linear):
    def forward(self, input):
        return 3 * super().forward(input)


def attention(hf):
    return hf.model.layers[1].self_attn


FOREIGN = {
    "lora": lambda hf: lora(attention(hf).q_a_proj),
    "bias": lambda hf: setattr(attention(hf).q_a_proj, "bias", nn.Parameter(torch.ones(40))),
    "head's bias": lambda hf: setattr(hf.lm_head, "bias", nn.Parameter(torch.ones(97))),
    "patched": lambda hf: patched(attention(hf).o_b_proj, lambda y: 2 * y),
    "subclass": lambda hf: setattr(
        attention(hf), "o_b_proj", Tripled(*reversed(attention(hf).o_b_proj.weight.shape), bias=False)
    ),
    "activation": lambda hf: setattr(hf.model.layers[0].mlp.experts, "act_fn", nn.GELU()),
    "layer": lambda hf: hf.model.layers.append(hf.model.layers[0]),
    "frequencies": lambda hf: hf.model.rotary_emb.main_inv_freq.mul_(0.5),
}


@pytest.mark.parametrize("change", FOREIGN)
def test_what_v4npu_does_not_compute_is_refused_before_and_after(plain, change):  # noqa: F811
    before, after = copy.deepcopy(plain), v4npu.enable(copy.deepcopy(plain))
    FOREIGN[change](before)
    state = [dict(vars(module)) for module in before.modules()]
    with pytest.raises((ValueError, NotImplementedError), match=r"v4npu\.enable: hf_model"):
        v4npu.enable(before)
    assert [vars(module) for module in before.modules()] == state
    logits(after, tokens(1, 9))
    FOREIGN[change](after)
    with pytest.raises((ValueError, NotImplementedError), match=r"v4npu\.enable: hf_model"):
        logits(after, tokens(1, 9))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("swiglu_limit", 0.0, "swiglu_limit 0 means no limit"),
        ("attention_factor", 1.3, r"rope_scaling\.attention_factor 1\.3"),
        ("attention_factor", None, r"rope_parameters give compress_inv_freq \[8\] scaled by 1\.2"),
        ("partial_rotary_factor", 0.125, r"rope_parameters give compress_inv_freq \[3\] scaled by 1\.0"),
    ],
)
def test_configurations_that_transformers_reads_otherwise(plain, key, value, said):  # noqa: F811
    config = copy.deepcopy(plain.config)
    if key == "swiglu_limit":
        config.swiglu_limit = value
    else:
        config.rope_parameters["compress"][key] = value
    hf = transformers.models.deepseek_v4.DeepseekV4ForCausalLM(config)
    with pytest.raises(NotImplementedError, match=rf"v4npu\.enable: hf_model\.config: {said}"):
        v4npu.enable(hf)


def test_yarn_with_its_bounds_the_other_way_round(plain):  # noqa: F811
    config, ids = copy.deepcopy(plain.config), tokens(1, 30)
    config.rope_parameters["compress"] |= {"beta_fast": 1, "beta_slow": 32}
    hf = transformers.models.deepseek_v4.DeepseekV4ForCausalLM(config).eval()
    want = logits(hf, ids)
    assert 0 < max_error(logits(v4npu.enable(hf), ids), want) < BOUND


def test_frequencies_that_were_in_bfloat16_are_near_enough(plain):  # noqa: F811
    assert logits(v4npu.enable(copy.deepcopy(plain).bfloat16().float()), tokens(1, 9)).isfinite().all()


def test_a_head_with_a_forward_of_its_own_keeps_it(plain):  # noqa: F811
    hf, ids = copy.deepcopy(plain), tokens(1, 30)
    patched(hf.lm_head, lambda y: 3 * torch.tanh(y / 3))
    other = copy.deepcopy(plain)
    other.lm_head.__class__ = Tripled
    for model in (hf, other):
        want = logits(model, ids)
        assert 0 < max_error(logits(v4npu.enable(model), ids), want) < BOUND
        assert torch.equal(logits(v4npu.disable(model), ids), want)


def test_the_whole_is_enabled_after_its_base(plain):  # noqa: F811
    before, ids = [(m, dict(vars(m))) for m in plain.modules()], tokens(1, 20)
    v4npu.enable(plain.model)
    theirs = vars(plain.lm_head).get("forward")
    v4npu.enable(plain)
    assert plain.model.forward.owner is plain and plain.lm_head.forward is not theirs
    assert max_error(logits(plain, ids), logits(v4npu.disable(plain), ids)) < BOUND
    assert all(vars(m) == was for m, was in before)


def test_attention_to_what_comes_later_is_transformers(plain):  # noqa: F811
    hf, ids = copy.deepcopy(plain), tokens(1, 30)
    causal = logits(hf, ids)
    hf.config.is_causal = False
    want = logits(hf, ids)
    assert max_error(logits(v4npu.enable(hf), ids), want) < BOUND < max_error(causal, want)


@pytest.mark.parametrize("fused", [False, True])
def test_training_changes_copied_weights_too(plain, fused):  # noqa: F811
    """torch's fused optimizers do not count what they change."""
    hf, ids = v4npu.enable(copy.deepcopy(plain).to(torch.bfloat16)), tokens(1, 20)
    before = logits(hf, ids)
    copied = [p for name, p in hf.named_parameters() if name.endswith("sinks")]
    for p in hf.parameters():
        p.requires_grad_(any(p is other for other in copied))
    optimizer = torch.optim.AdamW(copied, lr=0.5, fused=fused)
    hf.train()(ids, labels=ids).loss.backward()
    optimizer.step()
    now = logits(hf.eval(), ids)
    assert not torch.equal(now, before)
    assert torch.equal(now, logits(v4npu.enable(v4npu.disable(copy.deepcopy(hf))), ids))
    copied[0].data.add_(3)  # nor does this
    assert not torch.equal(logits(hf, ids), now)


def test_what_is_new_in_a_frozen_model_gets_its_gradient(plain):  # noqa: F811
    hf, ids = v4npu.enable(copy.deepcopy(plain).requires_grad_(False).train()), tokens(1, 20)
    hf.model.norm = type(hf.model.norm)(64)
    hf(ids, labels=ids).loss.backward()
    assert hf.model.norm.weight.grad.abs().sum() > 0


def test_what_wraps_an_enabled_model_is_taken_away_first(plain):  # noqa: F811
    hf, ids = copy.deepcopy(plain), tokens(1, 20)
    want = logits(hf, ids)
    for module in (hf.model, hf.lm_head):
        own = vars(v4npu.enable(hf))
        patched(module, lambda y: y)
        got = logits(hf, ids)
        with pytest.raises(ValueError, match=r"v4npu\.disable: hf_model has got another \w+\.forward since"):
            v4npu.disable(hf)
        assert vars(hf) == own and torch.equal(logits(hf, ids), got)
        module.forward = module.forward.__closure__[0].cell_contents
        assert torch.equal(logits(v4npu.disable(hf), ids), want)


@pytest.mark.parametrize("how", [{"output_hidden_states": True}, {"output_attentions": True}])
def test_assisted_decoding_cannot_step_back_what_transformers_computes(how):
    """Otherwise it would go on from compressed entries of the tokens that it has given up."""
    hf = v4npu.enable(oracle({**configuration(4), "sliding_window": 128, "compress_ratios": [4] * 4}, 4))
    ids = tokens(1, 30).repeat(1, 2)
    with torch.inference_mode():
        plainly = hf.generate(ids, **GREEDY)
        assert torch.equal(hf.generate(ids, prompt_lookup_num_tokens=6, **GREEDY), plainly)
        with pytest.raises(ValueError, match=r"cropped from \d+ to \d+ tokens, but compressed entries cannot be by"):
            hf.generate(ids, prompt_lookup_num_tokens=6, return_dict_in_generate=True, **how, **GREEDY)


def test_padding_shifts_positions_by_itself_alone(plain):  # noqa: F811
    hf, ids, mask = v4npu.enable(copy.deepcopy(plain)), tokens(1, 8), torch.ones(1, 8, dtype=torch.int64)
    with torch.inference_mode():
        for column, shift, right in ((0, 1, True), (0, 0, True), (0, 100, False), (7, 0, True), (7, 1, False)):
            now = mask.index_fill(1, torch.tensor(column), 0)
            positions = (now.cumsum(1) - 1 + shift).clamp_min(0)
            if right:
                hf(ids, attention_mask=now, position_ids=positions)
                continue
            with pytest.raises(ValueError, match="position_ids must count the tokens of each sequence"):
                hf(ids, attention_mask=now, position_ids=positions)

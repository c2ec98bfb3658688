"""v4npu.enable: what is left to transformers, and what is refused, with the model as it was."""

import copy
import sys
import warnings

import pytest
import torch
from test_enable import GREEDY, plain, tokens  # noqa: F401  plain is a fixture
from test_transformers import configuration

import v4npu

transformers = pytest.importorskip("transformers", reason="transformers is what is enabled here")


@pytest.fixture
def hf(plain):  # noqa: F811
    v4npu.enable(plain)
    yield plain
    v4npu.disable(plain)


def test_gradients_are_those_of_transformers(hf):
    ids = tokens(1, 20)
    with pytest.warns(RuntimeWarning, match="gradients are recorded"):
        loss = hf(ids, labels=ids).loss
    loss.backward()
    wanted = hf.model.layers[1].self_attn.q_a_proj.weight.grad.clone()
    hf.zero_grad()
    v4npu.disable(hf)
    hf(ids, labels=ids).loss.backward()
    assert torch.equal(hf.model.layers[1].self_attn.q_a_proj.weight.grad, wanted)
    hf.zero_grad()
    v4npu.enable(hf.train())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who trains knows
        hf(ids)
    hf.eval()


def test_a_frozen_model_records_no_gradients_and_runs_kernels(plain):  # noqa: F811
    ids, frozen = tokens(1, 20), copy.deepcopy(plain).requires_grad_(False)
    frozen.lm_head.requires_grad_()
    weights = dict(frozen.named_parameters())
    v4npu.enable(frozen)
    assert {name for name, p in weights.items() if p.requires_grad} == {"lm_head.weight"}
    assert not any(p.requires_grad for p in frozen.model.forward.model.parameters())
    frozen.lm_head.requires_grad_(False)
    with torch.inference_mode():
        wanted = frozen(ids).logits
        half = v4npu.enable(copy.deepcopy(plain).to(torch.bfloat16).requires_grad_(False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for hf in (frozen, half):
            out = hf(ids)
            assert out.past_key_values.layers[0].cache.num_tokens == 20
            assert out.logits.grad_fn is None and out.logits.float().numpy().shape == (1, 20, 97)
        assert torch.equal(frozen(ids).logits, wanted)
    assert all(p is weights[name] for name, p in frozen.named_parameters())


def test_intermediates_are_those_of_transformers(hf):
    ids = tokens(1, 20)
    with torch.inference_mode():
        asked = {"output_hidden_states": True, "output_router_logits": True, "output_attentions": True}
        out = hf(ids, **asked)
        text = hf.generate(ids, output_hidden_states=True, return_dict_in_generate=True, **GREEDY)
        assert len(text.hidden_states) == GREEDY["max_new_tokens"]
        past = hf(ids).past_key_values
        with pytest.raises(ValueError, match="output_hidden_states is left to transformers' own forward"):
            hf(ids, past_key_values=past, output_hidden_states=True)
        v4npu.disable(hf)
        for a, b in zip(out.hidden_states, hf(ids, **asked).hidden_states, strict=True):
            assert torch.equal(a, b)


def test_what_transformers_began_it_goes_on_with(hf):
    """A prompt of embeddings, and one whose hidden states were asked for; a cache that was reset is anybody's."""
    ids, new = tokens(2, 30), tokens(2, 3, seed=1)
    with torch.inference_mode():
        embeds, ways = hf.model.embed_tokens(ids), ({}, {"num_beams": 2})
        text = [hf.generate(inputs_embeds=embeds, **way, **GREEDY) for way in ways]
        began = [hf(ids, output_hidden_states=True).past_key_values, transformers.DynamicCache(config=hf.config)]
        assert hf.model(ids, output_attentions=True, return_dict=False, past_key_values=began[1])[1] is began[1]
        mine = copy.deepcopy(began[0])
        hidden = [hf.model(new, past_key_values=past).last_hidden_state for past in (*began, mine)]
        mine.reset()
        hf(ids, output_hidden_states=True, past_key_values=mine)
        mine.reset()
        assert hf(ids, past_key_values=mine).past_key_values.layers[0].cache.num_tokens == 30
        again = hf.model(new, past_key_values=mine)
        assert again.past_key_values.layers[0].cache.num_tokens == 33
        v4npu.disable(hf)
        for way, got in zip(ways, text, strict=True):
            assert torch.equal(hf.generate(inputs_embeds=embeds, **way, **GREEDY), got)
        wanted = hf.model(new, past_key_values=hf(ids).past_key_values).last_hidden_state
    assert all(torch.equal(got, wanted) for got in hidden)
    assert 0 < (again.last_hidden_state - wanted).abs().max() < 2e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "input_ids or inputs_embeds must be given"),
        ({"input_ids": torch.full((1, 4), 97)}, r"input_ids must be in 0\.\.96, got 97\.\.97"),
        ({"input_ids": torch.zeros(4, dtype=torch.int64)}, r"input_ids must be int64 \[batch, num_tokens\]"),
        ({"attention_mask": torch.ones(1, 5)}, r"attention_mask must be \[1, 4\]"),
        ({"attention_mask": [[1] * 4]}, r"attention_mask must be \[1, 4\].* got list"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, r"attention_mask must be \[1, 4\]"),
        ({"attention_mask": torch.full((1, 4), -1.0)}, "attention_mask must hold zeros and ones"),
        ({"position_ids": torch.tensor([[0, 1, 0, 1]])}, "position_ids must count the tokens of each sequence, row 0"),
        ({"position_ids": torch.arange(4)[None] + 3}, "position_ids must count the tokens of each sequence, row 0"),
        ({"position_ids": torch.arange(4)}, r"position_ids must be \[1, 4\]"),
        ({"past_key_values": "other"}, "past_key_values must be None, an empty DynamicCache"),
        (
            {"past_key_values": "theirs"},
            "past_key_values must be None, an empty DynamicCache .* got DynamicCache of 3 t",
        ),
        ({"past_key_values": "two"}, "input_ids must have the 2 sequences of past_key_values, got 1"),
        ({"past_key_values": "masked", "attention_mask": torch.ones(1, 7)}, "attention_mask must say of the tokens in"),
    ],
)
def test_wrong_inputs(hf, arguments, message):
    theirs, ids = v4npu.disable(copy.deepcopy(hf)), tokens(1, 3)
    with torch.inference_mode():
        past = {
            "other": lambda: transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache()),
            "theirs": lambda: theirs(ids).past_key_values,
            "two": lambda: hf(tokens(2, 3)).past_key_values,
            "masked": lambda: hf(ids, attention_mask=torch.tensor([[0, 1, 1]])).past_key_values,
        }
        if (made := arguments.get("past_key_values")) is not None:
            arguments = {**arguments, "past_key_values": past[made]()}
        if arguments:
            arguments = {"input_ids": tokens(1, 4), **arguments}
        with pytest.raises(ValueError, match=message):
            hf(**arguments)
        if made in ("two", "masked"):
            assert arguments["past_key_values"].get_seq_length() == 3


def test_dropout_is_transformers(plain):  # noqa: F811
    hf = v4npu.enable(copy.deepcopy(plain).train())
    with torch.no_grad():
        assert hf(tokens(1, 9)).past_key_values.layers[0].cache.num_tokens == 9
        hf.config.attention_dropout = 0.5
        assert not hasattr(hf(tokens(1, 9)).past_key_values.layers[0], "cache")
        assert hf.eval()(tokens(1, 9)).past_key_values.layers[0].cache.num_tokens == 9


@torch.inference_mode()
def test_what_a_state_does_not_do(hf):
    past = hf(tokens(2, 9)).past_key_values
    state = past.layers[0]
    assert (past.batch_size if hasattr(past, "batch_size") else state.batch_size) == 2
    with pytest.raises(ValueError, match="crop: tokens_to_remove must be 0 or negative, got 3"):
        state.crop(3)
    with pytest.raises(NotImplementedError, match="stays where the model is"):
        state.offload()
    with pytest.raises(ValueError, match="transformers' own forward cannot go on with it"):
        past.update(torch.zeros(2, 1, 1, 8), torch.zeros(2, 1, 1, 8), 0)
    assert past.get_seq_length() == 9 and state.get_max_length() == -1 and state.get_mask_sizes(3) == (12, 0)
    offloaded = transformers.DynamicCache()
    offloaded.offloading = True  # its own option asks for an accelerator
    with pytest.raises(ValueError, match="an empty DynamicCache that is not offloaded"):
        hf(tokens(2, 9), past_key_values=offloaded)
    state.crop(-20)
    assert past.get_seq_length() == 0 and state.cache.lengths == [0, 0]
    past.reset()
    assert state.cache is None and not hasattr(state, "batch_size")


def test_what_cannot_be_enabled_stays_as_it_was(plain):  # noqa: F811
    def adapted(hf):
        hf.model.layers[0].self_attn.q_a_proj.lora_A = torch.nn.Linear(64, 2, bias=False)

    def quantised(hf):
        weight = hf.model.layers[0].self_attn.q_a_proj.weight
        weight.data = weight.data.to(torch.float8_e4m3fn)

    def tied(hf):
        hf.config.tie_word_embeddings = True

    for change, error, message in (
        (adapted, ValueError, r"hf_model: tensor layers\.0\.attn\.wq_a\.lora_A\.weight is unexpected"),
        (quantised, NotImplementedError, r"q_a_proj\.weight is torch\.float8_e4m3fn; v4npu\.load reads"),
        (lambda hf: hf.half(), NotImplementedError, r"weight is torch\.float16"),
        (lambda hf: hf.to("meta"), ValueError, "hf_model must lie on one device, lies on meta"),
        (tied, NotImplementedError, r"hf_model\.config: tie_word_embeddings True"),
    ):
        hf = copy.deepcopy(plain)
        change(hf)
        before = [dict(vars(m)) for m in hf.modules()]
        with pytest.raises(error, match=message):
            v4npu.enable(hf)
        assert [vars(m) for m in hf.modules()] == before


def test_a_part_that_is_enabled_stays_so_where_the_whole_is_refused(plain):  # noqa: F811
    hf, ids = copy.deepcopy(plain), tokens(1, 9)
    v4npu.enable(hf.model)
    hf.lm_head.bias = torch.nn.Parameter(torch.ones(97), requires_grad=False)
    before = [dict(vars(m)) for m in hf.modules()]
    with pytest.raises(ValueError, match=r"tensor head\.bias is unexpected"):
        v4npu.enable(hf)
    assert [vars(m) for m in hf.modules()] == before
    hf.lm_head.bias = None
    forward = hf.model.forward
    hf.model.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    with pytest.raises(ValueError, match=r"v4npu\.enable: hf_model has got another DeepseekV4Model\.forward since"):
        v4npu.enable(hf)
    hf.model.forward = forward
    with torch.inference_mode():
        got = v4npu.enable(hf)(ids).logits
        assert torch.equal(got, v4npu.enable(copy.deepcopy(plain))(ids).logits)
        assert torch.equal(v4npu.disable(hf)(ids).logits, plain(ids).logits)


def test_other_models_are_refused(monkeypatch):
    for other in (torch.nn.Linear(2, 2), None):
        for change in (v4npu.enable, v4npu.disable):
            with pytest.raises(TypeError, match="hf_model must be a transformers DeepseekV4ForCausalLM"):
                change(other)
    monkeypatch.setitem(sys.modules, "transformers.models.deepseek_v4", None)
    with pytest.raises(ImportError, match=r"enable: hf_model must be a DeepSeek-V4 model of transformers 5\.23"):
        v4npu.enable(torch.nn.Linear(2, 2))


def test_a_model_without_head_is_enabled_too():
    config = transformers.models.deepseek_v4.DeepseekV4Config(**configuration(2))
    torch.manual_seed(0)
    base = transformers.models.deepseek_v4.DeepseekV4Model._from_config(config, attn_implementation="eager").eval()
    with torch.inference_mode():
        wanted = base(tokens(1, 20)).last_hidden_state
        got = v4npu.enable(base)(tokens(1, 20)).last_hidden_state
    assert (got - wanted).abs().max() < 2e-5 * wanted.abs().max()

"""v4npu.enable: transformers' own object, computed by v4npu, beside the same object not enabled."""

import copy
import re

import pytest
import torch
from test_transformers import configuration, oracle

import v4npu
from v4npu.cache import CacheFull
from v4npu.testing.compare import max_error

transformers = pytest.importorskip("transformers", reason="transformers is what is enabled here")
BOUND = 2e-5
GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 8}


def tokens(batch, length, seed=0):
    return torch.randint(1, 97, (batch, length), generator=torch.Generator().manual_seed(seed))  # 0 is padding


@pytest.fixture(scope="module")
def plain():
    """Every kind of layer, entries of HCA from token 8 on, picks that bind from token 24 on."""
    return oracle(configuration(4), 4)


@pytest.fixture
def hf(plain):
    assert v4npu.enable(plain) is plain
    with torch.inference_mode():
        yield plain
    v4npu.disable(plain)


def padded(rows, side):
    """Ids and mask of rows of different lengths."""
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
    for b, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(len(row))
        ids[b, at], mask[b, at] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def test_everything_is_as_before_once_disabled(plain):
    ids, attributes = tokens(2, 40), [(m, dict(vars(m))) for m in plain.modules()]
    with torch.inference_mode():
        before = plain(ids).logits
        v4npu.enable(v4npu.enable(plain))  # twice is once
        enabled = plain(ids)
        plain.generate(ids, **GREEDY)
        assert 0 < max_error(enabled.logits, before) < BOUND
        v4npu.disable(v4npu.disable(plain))
        assert torch.equal(plain(ids).logits, before)
    assert all(vars(m) == kept for m, kept in attributes)
    with pytest.raises(ValueError, match=r"filled under v4npu\.enable"):
        plain(ids, past_key_values=enabled.past_key_values)


def test_outputs_are_those_of_transformers(plain):
    ids = tokens(2, 33)
    labels = ids.masked_fill(torch.arange(33) % 5 == 0, -100)
    with torch.inference_mode():
        calls = ({"labels": labels}, {"logits_to_keep": 3, "use_cache": False}, {"return_dict": False})
        theirs = [plain(ids, **call) for call in calls]
        v4npu.enable(plain)
        ours = [plain(ids, **call) for call in calls]
        hidden = plain.model(ids).last_hidden_state
        v4npu.disable(plain)
        assert max_error(hidden, plain.model(ids).last_hidden_state) < BOUND
    assert max_error(ours[0].loss, theirs[0].loss) < BOUND and max_error(ours[1].logits, theirs[1].logits) < BOUND
    assert list(ours[0]) == list(theirs[0]) and list(ours[1]) == list(theirs[1]) and ours[1].past_key_values is None
    assert type(ours[0]) is type(theirs[0]) and type(ours[2]) is tuple and max_error(ours[2][0], theirs[2][0]) < BOUND


def test_generated_text_is_that_of_transformers(plain):
    ids = tokens(2, 45)
    ways = ({}, {"num_beams": 3}, {"prefill_chunk_size": 7}, {"use_cache": False}, {"do_sample": True})
    text = []
    for on in (False, True):
        if on:
            v4npu.enable(plain)
        for way in ways:
            torch.manual_seed(3)
            text.append(plain.generate(ids, **{**GREEDY, **way}))
    v4npu.disable(plain)
    assert all(torch.equal(a, b) for a, b in zip(text[: len(ways)], text[len(ways) :], strict=True))


def test_assisted_decoding_says_what_greedy_decoding_says(hf):
    ids = tokens(1, 40)
    plainly = hf.generate(ids, **GREEDY)
    assistant = copy.deepcopy(hf)  # has an enabled forward of its own
    assert assistant.model.forward.base is assistant.model
    assert torch.equal(hf.generate(ids, assistant_model=assistant, **GREEDY), plainly)
    with torch.no_grad():
        for p in assistant.parameters():
            p.mul_(1 + 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(hf.generate(ids, assistant_model=assistant, **GREEDY), plainly)
    assert torch.equal(hf.generate(ids, prompt_lookup_num_tokens=3, **GREEDY), plainly)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_leaves_each_sequence_what_it_is_alone(hf, side):
    rows = [tokens(1, n, seed=n)[0] for n in (31, 9, 40)]
    batch = padded(rows, side)
    logits, mask = hf(**batch).logits, batch["attention_mask"].bool()
    text = hf.generate(**batch, **GREEDY)
    chunked = hf.generate(**batch, prefill_chunk_size=6, **GREEDY)  # pieces that are padding alone
    beams = hf.generate(**batch, num_beams=2, **GREEDY)
    for b, row in enumerate(rows):
        assert torch.equal(logits[b, mask[b]], hf(row[None]).logits[0])
        alone = hf.generate(row[None], **GREEDY)[0, len(row) :]
        assert torch.equal(text[b, 40:], alone) and torch.equal(chunked[b, 40:], alone)
        assert torch.equal(beams[b, 40:], hf.generate(row[None], num_beams=2, **GREEDY)[0, len(row) :])


def test_chunks_and_single_tokens_continue_a_cache(hf):
    ids = tokens(2, 60)
    whole = hf(ids)
    cache, at, parts = transformers.DynamicCache(config=hf.config), 0, []
    for n in (3, 1, 1, 27, 14, 1, 13):
        out = hf(ids[:, at : at + n], past_key_values=cache)
        assert out.past_key_values is cache
        parts.append(out.logits)
        at += n
        assert cache.get_seq_length() == at
    assert torch.equal(torch.cat(parts, dim=1), whole.logits)
    cache.crop(-33)  # beyond what is free to forget
    assert torch.equal(hf(ids[:, 27:], past_key_values=cache).logits, whole.logits[:, 27:])
    cache.reset()
    assert torch.equal(hf(ids, past_key_values=cache).logits, whole.logits) and cache.batch_size == 2


def test_columns_of_padding_alone_change_nothing(hf):
    ids, mask = tokens(2, 20), torch.ones(2, 20, dtype=torch.int64)
    out, padding = hf(ids), torch.zeros(2, 1, dtype=torch.int64)
    past, mask = out.past_key_values, torch.cat([mask, padding], 1)
    assert torch.equal(hf(padding, attention_mask=mask, past_key_values=past).logits[:, 0], out.logits[:, -1])
    more, mask = torch.tensor([[0], [5]]), torch.cat([mask, torch.tensor([[0], [1]])], 1)
    logits = hf(more, attention_mask=mask, past_key_values=past).logits[:, 0]
    assert torch.equal(logits[0], out.logits[0, -1])
    assert torch.equal(logits[1], hf(torch.cat([ids[1:], more[1:]], 1)).logits[0, -1])
    nothing = hf.model(padding, attention_mask=padding)
    assert not nothing.last_hidden_state.any() and nothing.past_key_values.layers[0].cache.lengths == [0, 0]


def test_one_prompt_is_continued_in_several_ways(hf):
    prompt = tokens(1, 37)
    past = hf(prompt).past_key_values
    for seed in (1, 2):
        ids = torch.cat([prompt, tokens(1, 6, seed)], dim=1)
        mine = copy.deepcopy(past)
        assert torch.equal(hf.generate(ids, past_key_values=mine, **GREEDY), hf.generate(ids, **GREEDY))
        assert mine.get_seq_length() == 37 + 6 + 7 and past.get_seq_length() == 37


def test_caches_of_batches_are_selected_and_repeated(hf):
    rows = [tokens(1, n, seed=n)[0] for n in (12, 20)]
    batch, new = padded(rows, "left"), tokens(3, 2, seed=5)
    past = hf(**batch).past_key_values
    past.batch_repeat_interleave(2)
    past.batch_select_indices(torch.tensor([0, 2, 3]))
    past.reorder_cache(torch.tensor([2, 0, 1]))
    mask = torch.cat([batch["attention_mask"][[1, 0, 1]], torch.ones(3, 2, dtype=torch.int64)], dim=1)
    logits = hf(new, past_key_values=past, attention_mask=mask).logits
    for b, row in enumerate((rows[1], rows[0], rows[1])):
        assert torch.equal(logits[b], hf(torch.cat([row, new[b]])[None]).logits[0, -2:])


def test_room_is_made_where_it_cannot_be_reserved(hf, monkeypatch):
    past, ids = hf(tokens(1, 20)).past_key_values, tokens(1, 9)
    other = copy.deepcopy(past)
    wanted = hf(ids, past_key_values=other).logits
    model = hf.model.forward.model
    extend, calls = model.extend, []

    def full_at_first(*args):
        calls.append(args)
        if len(calls) == 1:
            raise CacheFull("full")
        return extend(*args)

    monkeypatch.setattr(model, "extend", full_at_first)
    with pytest.raises(CacheFull):  # a CPU has given all that it has
        hf(ids, past_key_values=copy.deepcopy(past))
    past.layers[0].cache.store.grow()
    assert torch.equal(hf(ids, past_key_values=past).logits, wanted)


def test_bfloat16_is_as_near_to_float32_as_transformers_is(plain):
    ids, half = tokens(2, 70), copy.deepcopy(plain).to(torch.bfloat16)
    with torch.inference_mode():
        wide, theirs = plain(ids).logits, half(ids).logits
        ours = v4npu.enable(half)(ids).logits
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - wide).abs().mean() < 1.2 * (theirs.float() - wide).abs().mean()


def copied(hf):
    """The last word of the names of weights that are not transformers' own memory."""
    theirs = {t.untyped_storage().data_ptr() for t in (*hf.parameters(), *hf.buffers())}
    ours = hf.model.forward.model.named_parameters()
    return {re.split(r"[._]", name)[-1] for name, p in ours if p.untyped_storage().data_ptr() not in theirs}


def test_weights_are_shared_and_changes_are_taken_over(plain):
    half = v4npu.enable(copy.deepcopy(plain).to(torch.bfloat16))
    ids = tokens(1, 20)
    assert not copied(v4npu.enable(plain)) and v4npu.disable(plain)
    assert copied(half) == {"fn", "base", "scale", "ape", "sink", "bias"}  # float32 in every v4npu model
    with torch.inference_mode():
        before = half(ids).logits
    for change in (
        lambda: half.model.layers[1].mlp.experts.gate_up_proj.mul_(-1),  # shared
        lambda: half.model.layers[1].self_attn.sinks.add_(3),  # copied
        lambda: setattr(half.model.norm, "weight", torch.nn.Parameter(half.model.norm.weight * 2)),  # exchanged
        lambda: half.float(),
    ):
        with torch.no_grad():
            change()
            now = half(ids).logits
            assert not torch.equal(now, before)
            fresh = v4npu.enable(v4npu.disable(copy.deepcopy(half)))
            assert torch.equal(fresh(ids).logits, now)
        before = now


def test_a_call_that_fails_behind_the_layers_changes_nothing(hf):
    ids = tokens(2, 12)
    past = hf(ids[:, :8], use_cache=True).past_key_values
    want = hf(ids[:, 8:], past_key_values=copy.deepcopy(past)).logits
    state = past.layers[0]
    hook = state.cache.model().norm.register_forward_pre_hook(lambda *_: bytearray(1 << 60))
    with pytest.raises(MemoryError):
        hf(ids[:, 8:], past_key_values=past)
    hook.remove()
    assert past.get_seq_length() == state.cache.num_tokens == 8
    assert torch.equal(hf(ids[:, 8:], past_key_values=past).logits, want)

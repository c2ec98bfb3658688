"""Loading: what is kept and in which dtype, how much memory it takes, and what is refused."""

from __future__ import annotations

import copy
import io
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import v4npu
from v4npu import checkpoint
from v4npu.checkpoint import Checkpoint
from v4npu.checkpoint_names import layout, scale_name
from v4npu.checkpoint_random import random_tensors
from v4npu.loader import NANO
from v4npu.model import Model
from v4npu.model.linear import QUANTISED
from v4npu.perplexity import perplexity
from v4npu.reference.formats import dequantise_weight
from v4npu.testing.models import TINY

CONFIG = replace(TINY, index_n_heads=16, max_position_embeddings=512)
IDS = (torch.arange(40) * 7 % 48)[None]


def test_quantised_weights_stay_packed(tmp_path: Path) -> None:
    checkpoint.random(tmp_path / "a", CONFIG)
    for dtype in (torch.bfloat16, torch.float32):
        model = v4npu.load(tmp_path / "a", device="cpu", dtype=str(dtype).removeprefix("torch."))
        layer = model.layers[1]
        assert layer.ffn.experts.w1.weight.dtype == torch.int8
        assert layer.ffn.experts.w2.scale.dtype == torch.float8_e8m0fnu
        assert layer.ffn.shared_experts.w1.weight.dtype == torch.float8_e4m3fn
        assert layer.attn.wq_a.weight.dtype == layer.attn.wo_a.weight.dtype == torch.float8_e4m3fn
        assert model.embed.weight.dtype == layer.attn_norm.weight.dtype == model.dtype == dtype
        assert layer.hc_attn_fn.dtype == layer.attn.attn_sink.dtype == layer.ffn.gate.bias.dtype == torch.float32
        assert model.layers[0].ffn.gate.tid2eid.dtype == torch.int64
        assert torch.isfinite(model(IDS)).all()
    assert v4npu.load(tmp_path / "a").dtype == torch.bfloat16  # "auto" is the checkpoint's


def test_every_tensor_arrives_as_it_is_stored(tmp_path: Path) -> None:
    checkpoint.random(tmp_path / "a", CONFIG, seed=5)
    model, opened = v4npu.load(tmp_path / "a"), Checkpoint(tmp_path / "a")
    for name in opened.names():
        stored, path, expert = opened.tensor(name), name, None
        if ".experts." in name:
            head, _, tail = name.partition(".experts.")
            number, _, leaf = tail.partition(".")
            path, expert = f"{head}.experts.{leaf}", int(number)
        module, _, attribute = path.rpartition(".")
        kept = getattr(model.get_submodule(module), attribute)
        kept = kept if expert is None else kept[expert]
        assert kept.dtype == stored.dtype, name
        assert torch.equal(kept.detach().view(torch.uint8), stored.view(torch.uint8)), name


def test_weights_lie_apart() -> None:
    weights = sorted(v4npu.load("nano").state_dict().values(), key=torch.Tensor.data_ptr)
    assert not any(w.data_ptr() % 64 for w in weights)
    for before, after in itertools.pairwise(weights):
        assert before.data_ptr() + before.nbytes <= after.data_ptr()
    untouched, changed = weights[0].clone(), next(w for w in weights[1:] if w.is_floating_point())
    version = weights[0]._version
    changed.zero_()
    assert weights[0]._version == version and torch.equal(weights[0].view(torch.uint8), untouched.view(torch.uint8))


@pytest.mark.parametrize(("expert", "attention"), [("fp4", "fp8"), ("fp8", "bf16"), ("bf16", "fp8")])
def test_packed_weights_mean_their_plain_values(tmp_path: Path, expert: str, attention: str) -> None:
    tensors = dict(random_tensors(CONFIG, 2, expert, attention))
    plain = {
        name: tensors[name] if spec.kind == "ids"
        else dequantise_weight(tensors[name], tensors.get(scale_name(name)), torch.float32)
        for name, spec in layout(CONFIG).items()
    }  # fmt: skip
    checkpoint.save(tmp_path / "packed", CONFIG, tensors)
    checkpoint.save(tmp_path / "plain", replace(CONFIG, quantized=False, torch_dtype="float32"), plain)
    logits = [v4npu.load(tmp_path / n, dtype="float32", numerics="exact")(IDS) for n in ("packed", "plain")]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("original_format", [True, False])
def test_what_transformers_saves(tmp_path: Path, original_format: bool) -> None:
    deepseek_v4 = pytest.importorskip("transformers.models.deepseek_v4")
    torch.manual_seed(0)
    values = {k: v for k, v in CONFIG.to_dict().items() if k not in ("quantization_config", "model_type")}
    values["compress_ratios"] = [0, 4, 128, 4]
    values["index_topk"] = 64  # every entry: no pick can hang on rounding
    # 16 index heads: with few, scores tie exactly at 0 (ReLU) and the two implementations break ties differently.
    theirs = deepseek_v4.DeepseekV4ForCausalLM(deepseek_v4.DeepseekV4Config(**values, compress_rate_hca=16))
    theirs.model.layers[0].mlp.gate.tid2eid.copy_(torch.arange(48)[:, None] % 3 + torch.arange(2))
    theirs.save_pretrained(tmp_path, save_original_format=original_format)
    ours = v4npu.load(tmp_path, dtype="float32", numerics="exact")
    assert len(ours.mtp) == 0  # transformers saves no draft layer
    with torch.no_grad():
        expected = theirs.eval()(IDS).logits
        torch.testing.assert_close(ours(IDS), expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_what_is_missing_has_official_names() -> None:
    model, tensors = Model(CONFIG), dict(random_tensors(CONFIG, 2))
    assert sorted(model.missing()) == sorted(layout(CONFIG))
    for name in layout(CONFIG):
        model.install(name, tensors[name])
    scales = [name for name in tensors if name.endswith(".scale")]
    assert sorted(model.missing()) == sorted(scales)
    for count, name in enumerate(scales, 1):
        model.install(name, tensors[name])
        assert sorted(model.missing()) == sorted(scales[count:])


def test_model_does_not_hang_on_the_file(tmp_path: Path) -> None:
    checkpoint.random(tmp_path / "a", CONFIG)
    model = v4npu.load(tmp_path / "a")
    before = model(IDS)
    file = tmp_path / "a" / "model.safetensors"
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert torch.equal(model(IDS), before)


def test_weights_travel_alone_and_are_not_converted() -> None:
    model, file = v4npu.load("nano"), io.BytesIO()
    torch.save(model.state_dict(), file)
    assert file.tell() < 1.05 * Checkpoint(NANO).nbytes  # no other weight's bytes
    file.seek(0)
    copied = copy.deepcopy(model)
    copied.load_state_dict(torch.load(file))
    assert torch.equal(copied(IDS), model(IDS))
    for change in (model.float, model.bfloat16, lambda: model.to("meta")):
        with pytest.raises(TypeError, match="neither converted nor moved"):
            change()
    assert torch.equal(model.to("cpu").share_memory()(IDS), copied(IDS))


def test_nothing_lies_on_the_default_device(tmp_path: Path) -> None:
    """Which torch.set_default_device sets; the meta device stands for any but the model's."""
    wanted = list(v4npu.load("nano").generate([1, 2, 3], max_new_tokens=4))
    with torch.device("meta"):
        checkpoint.random(tmp_path / "a", CONFIG)
        assert v4npu.load(tmp_path / "a")(IDS).device.type == "cpu"
        model = v4npu.load("nano")
        assert list(model.generate([1, 2, 3], max_new_tokens=4)) == wanted
        assert list(model.generate([1, 2, 3], max_new_tokens=4, draft_tokens=1)) == wanted
        engine = v4npu.engine.Engine(model, max_bytes=1 << 24)
        engine.add([1, 2, 3], max_new_tokens=4)
        assert [event.token for event in engine.run()] == wanted
        model.new_cache().save(tmp_path / "cache")
        assert model.load_cache(tmp_path / "cache").num_tokens == 0
        assert perplexity(model, "Call me Ishmael.").tokens > 0


def test_a_plain_call_is_the_one_of_inference_mode() -> None:
    model = v4npu.load("nano", strict=True)
    logits = model(IDS)
    assert not logits.requires_grad
    with torch.inference_mode():
        assert torch.equal(model(IDS[:, :-1]), logits[:, :-1])


def test_gradients_are_there_to_be_asked_for(tmp_path: Path) -> None:
    checkpoint.random(tmp_path / "a", CONFIG)
    model = v4npu.load(tmp_path / "a", dtype="float32", numerics="exact").requires_grad_()
    model(IDS).square().mean().backward()
    for name, p in model.named_parameters():
        fixed = p.dtype in QUANTISED or p.dtype == torch.int64 or name.endswith("gate.bias")
        untouched = name.startswith("mtp.") or ".indexer." in name  # these have losses of their own
        assert (p.grad is None) == (fixed or untouched), name


NAN = {
    torch.float8_e8m0fnu: 255, torch.float8_e4m3fn: 0xFF, torch.bfloat16: 0x7FC0, torch.float32: 0x7FC00000,
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["norm.weight", "embed.weight", "layers.0.attn.attn_sink", "layers.1.ffn.gate.bias", "layers.2.attn.wkv.weight",
     "layers.1.attn.wq_b.scale", "layers.1.ffn.experts.2.w3.scale", "layers.1.hc_attn_fn"],
)  # fmt: skip
def test_nan_is_refused(tmp_path: Path, name: str) -> None:
    tensors = dict(random_tensors(CONFIG))
    last = tensors[name].view(-1)[-1:]
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[last.dtype.itemsize]
    last.view(integer).fill_(NAN[last.dtype])
    checkpoint.save(tmp_path / "a", CONFIG, tensors)
    with pytest.raises(ValueError, match=rf"model\.safetensors: tensor '{name}' must not hold NaN"):
        v4npu.load(tmp_path / "a")


def test_infinite_and_huge_weights_are_the_checkpoints_business(tmp_path: Path) -> None:
    tensors = dict(random_tensors(CONFIG))
    tensors["layers.0.attn.attn_sink"].fill_(-torch.inf)  # a head without a sink
    tensors["norm.weight"].fill_(3e38)  # their sum overflows
    checkpoint.save(tmp_path / "a", CONFIG, tensors)
    assert v4npu.load(tmp_path / "a").layers[0].attn.attn_sink.isinf().all()


def test_refusals(tmp_path: Path) -> None:
    checkpoint.random(tmp_path / "a", CONFIG)
    with pytest.raises(ValueError, match="numerics must be"):
        v4npu.load(tmp_path / "a", numerics="fast")
    with pytest.raises(ValueError, match="dtype must be auto, bfloat16"):
        v4npu.load(tmp_path / "a", dtype="int8")
    with pytest.raises(TypeError, match="strict must be True or False, got 'no'"):
        v4npu.load(tmp_path / "a", strict="no")
    with pytest.raises(ValueError, match="device must be"):
        v4npu.load(tmp_path / "a", device="tpu")
    with pytest.raises(FileNotFoundError, match="absent: no such directory"):
        v4npu.load(tmp_path / "absent")
    tensors = dict(random_tensors(CONFIG))
    checkpoint.save(tmp_path / "b", replace(CONFIG, torch_dtype="float16"), tensors)
    with pytest.raises(NotImplementedError, match="torch_dtype 'float16'"):
        v4npu.load(tmp_path / "b")
    tensors["layers.0.ffn.gate.tid2eid"][3, 1] = 4
    checkpoint.save(tmp_path / "b", CONFIG, tensors)
    with pytest.raises(ValueError, match=r"tid2eid must hold expert ids 0\.\.3, got 0\.\.4"):
        v4npu.load(tmp_path / "b")


def test_an_empty_model_says_so() -> None:
    model = v4npu.model.Model(CONFIG)
    ids = torch.zeros(1, 2, dtype=torch.int64)
    for call in (lambda: model(ids), lambda: model(ids, cache=model.new_cache()), lambda: next(model.generate([0]))):
        with pytest.raises(ValueError, match="the model has no weights"):
            call()

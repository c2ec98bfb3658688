"""DeepSeek-V4 chat: messages to token ids, and a completion back to a message.

A conversation is rendered as control tokens, which only this module places, and text, which is never read as
one: `<｜Assistant｜>` typed by a user reaches the model spelled out. This is the April 2026 format, with the modes
none, high and max; later checkpoints (0731, V4.1) speak others.

Three passages of the format are DeepSeek's prose and are not part of this package: the tools block, the schema section
and the preamble of max. They are read, not run, from encoding/encoding_dsv4.py, which comes with an official
checkpoint, and are known by their hash.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v4npu.tokenizer import Tokenizer

Message = Mapping[str, Any]
MODES = ("none", "high", "max")
ROLES = ("system", "developer", "user", "assistant", "tool", "latest_reminder")
TASKS = ("action", "query", "authority", "domain", "title", "read_url")
PASSAGES = {  # sha256 of the UTF-8 text, placeholders unfilled
    "tools block": "09b7269daaddbeaf11a3ed55c07b1846c35162b841d8b4301bbe0449879d1fd8",
    "schema section": "012f31fcc1338bdfe25b132eaf56ab020ee75ab8e649f37b30b8e5f544fb17a5",
    "preamble of max": "f7a24f3b3050d4a83781e9b755b316aae2ec1d9dc87562541d90bcb04d7350f7",
}


class Control(str):
    """The name of a control token; in a rendered conversation every other string is text."""


Segments = list[str]
BOS, EOS = Control("<｜begin▁of▁sentence｜>"), Control("<｜end▁of▁sentence｜>")
USER, ASSISTANT = Control("<｜User｜>"), Control("<｜Assistant｜>")
THINK, END_THINK, DSML = Control("<think>"), Control("</think>"), Control("｜DSML｜")
REMINDER, URL = Control("<｜latest_reminder｜>"), Control("<｜extracted_url｜>")
REQUIRED = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, DSML)


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message], think: str = "none", **options: Any) -> list[int]:
    """Token ids of a conversation, ready for the model to answer.

    Args:
        tokenizer: of the checkpoint; it must have V4's control tokens.
        messages, think, options: as for `render`. The passages come from encoding/ beside tokenizer.json.

    Raises:
        ValueError: malformed messages, or a tokenizer without V4's control tokens.
        NotImplementedError: a passage is needed that the checkpoint does not come with.
    """
    if lacking := [name for name in REQUIRED if name not in tokenizer.controls]:
        raise ValueError(f"v4npu.chat: {tokenizer.path} lacks V4's control tokens {' '.join(lacking)}")
    options.setdefault("passages", read_passages(tokenizer.path.parent / "encoding" / "encoding_dsv4.py"))
    ids: list[int] = []
    # Text is encoded in the longest runs, since the official whole-string encoding merges across our segments.
    for is_control, run in groupby(render(messages, think, **options), lambda s: isinstance(s, Control)):
        segments = list(run)
        ids += map(tokenizer.control, segments) if is_control else tokenizer.encode("".join(segments))
    return ids


def read_passages(path: Path) -> dict[str, str]:
    """DeepSeek's passages in a copy of encoding_dsv4.py: strings whose hash is in PASSAGES; the rest is ignored."""
    try:
        small = path.is_file() and path.stat().st_size < 2**20
        tree = ast.parse(path.read_text("utf-8")) if small else None
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    names = {digest: name for name, digest in PASSAGES.items()}
    found: dict[str, str] = {}
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            digest = hashlib.sha256(node.value.encode("utf-8", "surrogatepass")).hexdigest()
            if digest in names:
                found[names[digest]] = node.value
    return found


def render(
    messages: Sequence[Message],
    think: str = "none",
    *,
    drop_reasoning: bool = True,
    bos: bool = True,
    passages: Mapping[str, str] | None = None,
) -> Segments:
    """The conversation as control tokens (Control) and text (plain str); joined, it is the official prompt.

    Args:
        messages: OpenAI style. Roles system, developer, user, assistant, tool and latest_reminder. System and
            developer may carry `tools` and `response_format`; assistant `reasoning_content`, `tool_calls` and
            `wo_eos`; any a `task` (TASKS; read_url also takes `extracted_url`).
        think: "none" answers at once, "high" reasons first, "max" reasons at length (wants 384K of context).
        drop_reasoning: forget the reasoning, and developer messages, before the last user message. Never
            done when tools are present.
        bos: begin with the token that begins a document.
        passages: what `read_passages` found.

    Raises:
        ValueError: malformed messages.
        NotImplementedError: a passage is needed that was not given.
    """
    if think not in MODES:
        raise ValueError(f"v4npu.chat: think must be none, high or max, got {think!r}")
    turns = _turns(messages)
    drop = drop_reasoning and not any(turn.get("tools") for turn in turns)
    if think != "none" and drop:
        last = _last_user(turns)
        turns = [turn for i, turn in enumerate(turns) if turn["role"] != "developer" or i >= last]
    last, passages = _last_user(turns), passages or {}
    out: Segments = [BOS] if bos else []
    if think == "max":
        out.append(_passage(passages, "preamble of max"))
    for i, turn in enumerate(turns):
        thinks = think != "none" and (not drop or i >= last)
        if turn["role"] == "assistant":
            after_task = i > 0 and turns[i - 1].get("task") is not None
            out += _assistant(turn, thinks and not after_task)
        else:
            out += _request(turn, passages)
        if i + 1 == len(turns) or turns[i + 1]["role"] in ("assistant", "latest_reminder"):
            out += _closing(turn, thinks, think)
    return [segment for segment in out if segment]


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Checked copies, in which tool results and adjacent user messages share one user turn of `blocks`."""
    if isinstance(messages, (str, Mapping)) or not messages:
        raise ValueError(f"v4npu.chat: messages must be a non-empty list, got {messages!r}")
    turns: list[dict[str, Any]] = []
    order: dict[str, int] = {}
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise ValueError(f"v4npu.chat: messages[{i}].role must be one of {', '.join(ROLES)}, got {role!r}")
        if (task := message.get("task")) is not None and task not in TASKS:
            raise ValueError(f"v4npu.chat: messages[{i}].task must be one of {', '.join(TASKS)}, got {task!r}")
        turn, text = dict(message), _text(message.get("content"), f"messages[{i}].content")
        turn["content"] = text
        if role not in ("system", "developer") and (message.get("tools") or message.get("response_format")):
            raise ValueError(f"v4npu.chat: messages[{i}]: tools and response_format belong to system or developer")
        if role == "developer" and not text:
            raise ValueError(f"v4npu.chat: messages[{i}].content of a developer must not be empty")
        for key in ("tools", "tool_calls"):
            if (given := message.get(key)) and not (isinstance(given, list) and all(map(_function, given))):
                raise ValueError(f"v4npu.chat: messages[{i}].{key} must be a list, got {given!r}")
        if role == "assistant" and message.get("tool_calls"):
            ids = [_identifier(call.get("id"), f"messages[{i}].tool_calls: id") for call in message["tool_calls"]]
            order = {call_id: n for n, call_id in enumerate(ids) if call_id}
        if role not in ("user", "tool"):
            turns.append(turn)
            continue
        call_id = _identifier(message.get("tool_call_id"), f"messages[{i}].tool_call_id") if role == "tool" else None
        block = (call_id, f"<tool_result>{text}</tool_result>" if role == "tool" else text)
        if turns and turns[-1]["role"] == "user" and (role == "tool" or turns[-1].get("task") is None):
            turns[-1] = dict(turns[-1])
            turns[-1].update((k, turn[k]) for k in ("task", "extracted_url") if k in turn)
        else:
            turns.append({**turn, "role": "user", "blocks": []})
        turns[-1]["blocks"] = _in_call_order([*turns[-1]["blocks"], block], order)
    return turns


def _identifier(value: Any, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"v4npu.chat: {where} must be a string, got {value!r}")
    return value or ""


def _in_call_order(blocks: list[tuple[str | None, str]], order: Mapping[str, int]) -> list[tuple[str | None, str]]:
    """Tool results change places among themselves; the user's text stays where it is."""
    results = iter(sorted((b for b in blocks if b[0] is not None), key=lambda b: order.get(b[0] or "", 0)))
    return [block if block[0] is None else next(results) for block in blocks]


def _text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise ValueError(f"v4npu.chat: {where} must be text or a list of parts, got {content!r}")
    parts = (p.get("text", "") if p.get("type") == "text" else f"[Unsupported {p.get('type')}]" for p in content)
    return "\n\n".join(map(str, parts))


def _last_user(turns: list[dict[str, Any]]) -> int:
    return max((i for i, turn in enumerate(turns) if turn["role"] in ("user", "developer")), default=-1)


def _request(turn: Message, passages: Mapping[str, str]) -> Segments:
    """Whatever is not the assistant's."""
    start: dict[str, Segments] = {"user": [USER], "developer": [USER], "latest_reminder": [REMINDER]}
    out = list(start.get(turn["role"], []))
    out.append("\n\n".join(text for _, text in turn["blocks"]) if turn["role"] == "user" else turn["content"])
    if tools := turn.get("tools"):
        schemas = "\n".join(_json(_function(tool)) for tool in tools)
        fill = {"dsml_token": DSML, "thinking_start_token": THINK, "thinking_end_token": END_THINK}
        out += ["\n\n", *_fill(_passage(passages, "tools block"), {**fill, "tool_schemas": schemas})]
    if schema := turn.get("response_format"):
        out += ["\n\n", *_fill(_passage(passages, "schema section"), {"schema": _json(schema)})]
    return out


def _assistant(turn: Message, thinks: bool) -> Segments:
    out: Segments = [_text(turn.get("reasoning_content"), "reasoning_content"), END_THINK] if thinks else []
    out.append(turn["content"])
    if calls := turn.get("tool_calls"):
        out += ["\n\n<", DSML, "tool_calls>\n", *_calls(calls), "</", DSML, "tool_calls>"]
    return out if turn.get("wo_eos") else [*out, EOS]


def _calls(calls: Iterable[Message]) -> Segments:
    out: Segments = []
    for call in calls:
        function = _function(call)
        out += ["<", DSML, f'invoke name="{function["name"]}">\n']
        for i, (name, value) in enumerate(_arguments(function.get("arguments", "{}")).items()):
            text = isinstance(value, str)
            out += ["\n" if i else "", "<", DSML, f'parameter name="{name}" string="{str(text).lower()}">']
            out += [value if text else _json(value), "</", DSML, "parameter>"]
        out += ["\n</", DSML, "invoke>\n"]
    return out


def _function(tool: Message) -> Message:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"v4npu.chat: tools and tool_calls must hold {{'function': {{'name': ...}}}}, got {tool!r}")
    return function


def _arguments(arguments: Any) -> Mapping[str, Any]:
    """What is not a JSON object becomes one parameter of that name."""
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, Mapping) else {"arguments": arguments}


def _closing(turn: Message, thinks: bool, think: str) -> Segments:
    """What hands the turn over: to the assistant, or to the task's short answer."""
    task = turn.get("task")
    if task == "action":
        return [ASSISTANT, END_THINK if think == "none" else THINK, Control("<｜action｜>")]
    if task is not None:
        url = turn.get("extracted_url")
        return [*([URL, str(url)] if url else []), Control(f"<｜{task}｜>")]
    return [ASSISTANT, THINK if thinks else END_THINK] if turn["role"] in ("user", "developer") else []


def _passage(passages: Mapping[str, str], name: str) -> str:
    if name not in passages:
        raise NotImplementedError(
            f"v4npu.chat: the {name} (sha256 {PASSAGES[name][:12]}...) must be in encoding/encoding_dsv4.py of the "
            "checkpoint, which has none"
        )
    return passages[name]


def _fill(passage: str, values: Mapping[str, str]) -> Segments:
    """The passage with its {placeholders} filled; a Control stays one."""
    parts = re.split(r"\{(\w+)\}", passage)
    return [values[part] if i % 2 else part for i, part in enumerate(parts)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

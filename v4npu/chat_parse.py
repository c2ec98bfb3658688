"""A completion of a DeepSeek-V4 chat, back to a message; strict."""

from __future__ import annotations

import json
import re
from typing import Any

from v4npu.chat import BOS, DSML, END_THINK, EOS, MODES, THINK

_OPEN = f"\n\n<{DSML}tool_calls"
_CLOSE = f"</{DSML}tool_calls>"
_INVOKE = re.compile(rf'<{DSML}invoke name="([^"\n]+)">\n')
_PARAMETER = re.compile(  # a value reaches to the first closing tag, so that a broken one cannot swallow the next
    rf'<{DSML}parameter name="([^"\n]+)" string="(true|false)">((?:(?!/{DSML}parameter).)*)</{DSML}parameter>\n',
    re.S,
)
_END_INVOKE = re.compile(rf"\n?</{DSML}invoke>\n")


def parse(text: str, think: str = "none") -> dict[str, Any]:
    """The assistant message that a completion spells.

    Args:
        text: what the model wrote after the prompt, control tokens by name, up to and including EOS.
        think: the mode the prompt was rendered in; "high" and "max" require reasoning.

    Returns:
        role, content, reasoning_content and tool_calls (OpenAI style, arguments as JSON text).

    Raises:
        ValueError: no end of the reasoning or of the message, a control token where text belongs, or a tool
            block that departs from its grammar in any character.
    """
    if think not in MODES:
        raise ValueError(f"v4npu.chat: think must be none, high or max, got {think!r}")
    reasoning, rest = "", text
    if think != "none":
        reasoning, end, rest = text.partition(END_THINK)
        if not end or _OPEN in reasoning:
            raise ValueError(f"v4npu.chat: the reasoning must end with {END_THINK}, got {_clip(text)}")
    content, block, tail = rest.partition(_OPEN)
    calls: list[dict[str, Any]] = []
    if block and EOS not in content:
        calls, tail = _calls(tail)
        if tail not in ("", EOS):
            raise ValueError(f"v4npu.chat: only {EOS} may follow the tool calls, got {_clip(tail)}")
    else:
        content, end, tail = rest.partition(EOS)
        if not end or tail:
            raise ValueError(f"v4npu.chat: the completion must end with one {EOS}, got {_clip(rest)}")
    for control in (BOS, EOS, THINK, END_THINK, DSML):
        if control in reasoning or control in content:
            raise ValueError(f"v4npu.chat: {control} must not stand in the text of a completion")
    return {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": calls}


def _calls(text: str) -> tuple[list[dict[str, Any]], str]:
    """The calls of a tool block, and what follows it."""
    if not text.startswith(">\n"):
        raise ValueError(f"v4npu.chat: malformed tool block at {_clip(text)}")
    calls, at = [], 2
    while invoke := _INVOKE.match(text, at):
        at, arguments = invoke.end(), {}
        while parameter := _PARAMETER.match(text, at):
            name, is_text, value = parameter.groups()
            if name in arguments:
                raise ValueError(f"v4npu.chat: parameter {name!r} is given twice")
            arguments[name] = json.dumps(value, ensure_ascii=False) if is_text == "true" else _checked(name, value)
            at = parameter.end()
        # Only a call without parameters has an empty line before its end.
        if not (end := _END_INVOKE.match(text, at)) or (arguments and text[at] == "\n"):
            raise ValueError(f"v4npu.chat: malformed call of {invoke[1]!r} at {_clip(text[at:])}")
        at = end.end()
        pairs = ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {raw}" for name, raw in arguments.items())
        calls.append({"type": "function", "function": {"name": invoke[1], "arguments": f"{{{pairs}}}"}})
    if not text.startswith(_CLOSE, at):
        raise ValueError(f"v4npu.chat: malformed tool block at {_clip(text[at:])}")
    return calls, text[at + len(_CLOSE) :]


def _checked(name: str, value: str) -> str:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"v4npu.chat: parameter {name!r} must be JSON, got {_clip(value)}") from None
    return value


def _clip(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")

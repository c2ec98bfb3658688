"""v4npu: a hardware-portable runtime for DeepSeek-V4.

    model = v4npu.load("nano")
    for piece in model.generate("Call me Ishmael.", max_new_tokens=64):
        print(piece, end="")

Importing this registers `torch.ops.v4npu.*` and nothing else; the rest is loaded when first named.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# torch would import an installed torch-npu by itself, and fail with it where there is no CANN.
if not (os.path.exists("/dev/davinci_manager") or os.environ.get("ASCEND_HOME_PATH")):
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import torch  # noqa: F401  first: _C takes torch's symbols from the libraries this loads

from v4npu import dispatch as _dispatch  # noqa: F401  registers the operators

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "checkpoint",
    "disable",
    "doctor",
    "enable",
    "engine",
    "explain",
    "fallback",
    "load",
    "ops",
    "optim",
]

_MODULES = ("checkpoint", "engine", "ops", "optim")
_ATTRIBUTES = {
    "load": "loader",
    "enable": "integrations.transformers",
    "disable": "integrations.transformers",
    "doctor": "device",
    "explain": "device",
    "fallback": "device",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"v4npu.{name}")
    if name in _ATTRIBUTES:
        return getattr(importlib.import_module(f"v4npu.{_ATTRIBUTES[name]}"), name)
    raise AttributeError(f"module 'v4npu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

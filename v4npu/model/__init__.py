"""DeepSeek-V4 in modules named as the checkpoint names its tensors; they call v4npu.ops and nothing below it.

docs/v4.md leads through them.
"""

from __future__ import annotations

from v4npu.model.config import Config
from v4npu.model.model import Model

__all__ = ["Config", "Model"]

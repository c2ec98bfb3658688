"""What a capture notes of torch's operators between kernels, so that a replay calls them again."""

from __future__ import annotations

import torch

from v4npu import _C
from v4npu.model.graph import _Recorder


def test_operators_are_called_again_with_all_their_arguments() -> None:
    x, recorder = torch.arange(6.0).view(2, 3), _Recorder(_C.Capture())
    with recorder:
        means = torch.mean(x, 1, dtype=torch.float64)
        out = torch.add(x, x, alpha=2).to(torch.bfloat16)
    x.add_(1)
    for part in recorder.parts:
        part()
    assert means.dtype == torch.float64 and means.tolist() == [2.0, 5.0]
    assert torch.equal(out, (3 * x).bfloat16()) and recorder.whole


def test_what_changes_a_tensor_in_place_cannot_be_called_again() -> None:
    x, recorder = torch.ones(3), _Recorder(_C.Capture())
    with recorder:
        x.mul_(2)
    assert not recorder.whole

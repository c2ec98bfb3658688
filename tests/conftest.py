"""Fixtures shared by all tests."""

import os

import pytest
import torch

from v4npu.device import resolve


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that the operators' tests run on: V4NPU_TEST_DEVICE, or the cpu. One that is absent fails them."""
    try:
        return resolve(os.environ.get("V4NPU_TEST_DEVICE") or "cpu")
    except ValueError as error:
        reason = str(error)
    pytest.fail(f"V4NPU_TEST_DEVICE: {reason}", pytrace=False)

"""Fixtures shared by all tests."""

import os
import sys

import pytest
import torch

from v4npu import cli
from v4npu.device import resolve

# They need torch-npu and an NPU, be it an emulated one: `make test-npu`.
collect_ignore = [] if "V4NPU_EMULATE_SOC" in os.environ else ["npu"]

# Whoever is free takes the next file whole: these first, lest one of them run alone at the end.
LONG = (
    "nano faults museum attention state transformers cuda_kernels speculative indexer_topk kernels build_kernels"
    " loader_memory"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONG.split())}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that the operators' tests run on: V4NPU_TEST_DEVICE, or the cpu. One that is absent fails them."""
    try:
        return resolve(os.environ.get("V4NPU_TEST_DEVICE") or "cpu")
    except ValueError as error:
        reason = str(error)
    pytest.fail(f"V4NPU_TEST_DEVICE: {reason}", pytrace=False)


@pytest.fixture
def v4npu_command(monkeypatch, capsys):
    """v4npu_command(*arguments): status, stdout and stderr of the command line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["v4npu", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return run

"""Fixtures of the tests of the command line."""

import sys

import pytest

from v4npu import cli


@pytest.fixture
def v4npu_command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["v4npu", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return run

"""bench/extension.py compiles what CMake does, with the same flags."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from v4npu.testing.cuda import ROOT, script

extension = script("bench/extension.py")
BUILDS = sorted(ROOT.glob("build/*/compile_commands.json"), key=lambda p: p.stat().st_mtime)
OF_CMAKE = ("-Werror", "-D_C_EXPORTS", "-Winvalid-pch")


def flags(words: list[str]) -> frozenset[str]:
    return frozenset(w for w in words if w[:2] in ("-D", "-O", "-W", "-f", "-m", "-s") and w not in OF_CMAKE)


def test_what_is_compiled_is_what_cmake_compiles() -> None:
    commands = [(e["file"], shlex.split(e["command"])) for e in json.loads(BUILDS[-1].read_text())]
    want = {(file, flags(words)) for file, words in commands if "cmake_pch" not in Path(file).name}
    units = [
        (source, [*words, *([extension.STABLE] * ("bindings" in source.parts))]) for source, words in extension.units()
    ]
    assert {(str(source), flags(words)) for source, words in units} == want


def test_a_missing_compiler_or_header_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(extension.Missing, match=r"no C\+\+ compiler: install g\+\+"):
        extension.build(tmp_path / "out", 1)
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(extension.Missing, match=r"/bin/false failed on csrc/"):
        extension.build(tmp_path / "out", 1)
    monkeypatch.setattr(extension.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(extension.Missing, match=r"no Python\.h in .*: install python3-dev"):
        extension.build(tmp_path / "out", 1)

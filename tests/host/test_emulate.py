"""What `v4npu emulate` needs and refuses, without torch-npu."""

from __future__ import annotations

from pathlib import Path

import pytest

from v4npu import emulate
from v4npu.emulated_kernels import skus


def test_every_name_of_a_chip_is_a_sku() -> None:
    assert all(emulate.sku_of(name) in skus() for name in (*skus(), *emulate.PRODUCTS))
    assert emulate.sku_of("Ascend950DT") == "ascend950dt_9581"
    with pytest.raises(ValueError, match=r"soc must be one of ascend910_9391, .*, got 'ascend310'"):
        emulate.sku_of("ascend310")


def test_a_real_runtime_is_noticed_and_the_emulated_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "libascendcl.so").touch()
    found = {"LD_LIBRARY_PATH": f"/nonexistent:{tmp_path}"}
    assert emulate.real_runtime(found) == str(tmp_path / "libascendcl.so")
    with pytest.raises(ValueError, match="this machine has a real Ascend runtime"):
        emulate.environment("ascend950dt", found)
    (tmp_path / "emulated").touch()
    assert emulate.real_runtime(found) is None
    assert emulate.real_runtime({}) is None


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    monkeypatch.setattr(emulate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="torch-npu is not installed"):
        emulate.environment("ascend950dt", cache)
    monkeypatch.setattr(emulate, "_torch_npu", lambda: tmp_path)
    monkeypatch.setattr(emulate.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler"):
        emulate.environment("ascend950dt", cache)
    assert not any(tmp_path.iterdir())

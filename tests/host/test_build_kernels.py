"""`v4npu build-kernels`: compiler, versions, cache and refusals, with a script in the place of CANN's compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from v4npu import build_kernels, device, kernel_cache
from v4npu.build_kernels import build

TOOL = """#!/bin/sh
case "$1" in --version) echo "{version}"; exit 0;; esac
echo "$(basename "$0") $@" >> "{log}"
{body}
while [ "$1" != -o ]; do shift; done
echo compiled > "$2"
"""


@pytest.fixture
def toolkit(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """toolkit(version, compiler, body): the environment of a CANN whose tools log what they are given."""

    def install(version: str = "9.1.0", compiler: str = "bisheng 15.0.5", body: str = "") -> dict[str, str]:
        home = tmp_path / "cann"
        (home / "x86_64-linux").mkdir(parents=True, exist_ok=True)
        (home / "x86_64-linux/ascend_toolkit_install.info").write_text(f"package_name=toolkit\nversion={version}\n")
        (home / "bin").mkdir(exist_ok=True)
        for name in ("bisheng", "ld.lld"):
            tool = home / "bin" / name
            own = body if name == "bisheng" else ""
            tool.write_text(TOOL.format(version=compiler, log=tmp_path / "log", body=own))
            tool.chmod(0o755)
        return {"ASCEND_HOME_PATH": str(home), "PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    return install


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


@pytest.mark.parametrize(("soc", "arch"), [("Ascend910B1", 2201), ("ascend910_9391", 2201), ("ascend950dt", 3510)])
def test_every_kernel_is_compiled_once_and_linked(
    toolkit: Callable[..., dict[str, str]], tmp_path: Path, soc: str, arch: int
) -> None:
    environ = toolkit()
    binary = build(soc, environ=environ)
    assert binary.read_text() == "compiled\n" and binary.parent == tmp_path / "cache/v4npu"
    *compiled, linked = sorted(calls(tmp_path), key=lambda line: line.startswith("ld.lld"))
    assert len(compiled) == len(kernel_cache.kernel_ops()) > 0
    for line in compiled:
        assert f"--npu-arch=dav-{arch}" in line and "--cce-aicore-only" in line and "_kernel" in line
        assert ("-mllvm -cce-aicore-dcpreload-args=false" in line) == (arch == 3510)
    assert linked.startswith("ld.lld -m aicorelinux") and linked.count(".o ") == len(compiled)
    assert build(soc.upper(), environ=environ) == binary and len(calls(tmp_path)) == len(compiled) + 1


def test_another_compiler_or_other_text_is_compiled_anew(
    toolkit: Callable[..., dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build("ascend910b1", environ=toolkit())
    second = build("ascend910b1", environ=toolkit(compiler="bisheng 15.0.6"))
    monkeypatch.setattr(build_kernels, "FLAGS", (*build_kernels.FLAGS, "-g"))
    third = build("ascend910b1", environ=toolkit(compiler="bisheng 15.0.6"))
    own = tmp_path / "rope_kernel_dav2201.asc"
    own.write_text("// another")
    monkeypatch.setattr(build_kernels, "kernel_path", lambda op, arch: own)
    fourth = build("ascend910b1", environ=toolkit(compiler="bisheng 15.0.6"))
    assert len({first, second, third, fourth}) == 4 and all(p.exists() for p in (first, second, third, fourth))


@pytest.mark.parametrize(
    ("soc", "version", "body", "message"),
    [
        ("ascend310p", "9.1.0", "", r"soc must be of the Ascend 910B .*, got 'ascend310p'"),
        ("ascend910b1", "8.0.0", "", r"CANN 8\.0\.0 is too old: kernels for ascend910b1 need 8\.5 or later"),
        ("ascend950dt", "9.0.RC1", "", r"CANN 9\.0\.RC1 is too old: kernels for ascend950dt need 9\.1 or later"),
        ("ascend950dt", "9.1.0", "echo 'x.asc:3:1: error: no such type' >&2; exit 1",
         r"bisheng failed on \w+ for dav-3510 with status 1: x\.asc:3:1: error: no such type"),
        ("ascend950dt", "9.1.0", "exit 0", r"bisheng reported success on \w+ for dav-3510 and wrote nothing"),
    ],
)  # fmt: skip
def test_refusals(
    toolkit: Callable[..., dict[str, str]], tmp_path: Path, soc: str, version: str, body: str, message: str
) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        build(soc, environ=toolkit(version, body=body))
    assert not list((tmp_path / "cache").rglob("*.o"))


def command(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command line, without CANN in its environment."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("ASCEND_", "SOC_VERSION", "V4NPU_"))}
    done = subprocess.run(
        [sys.executable, "-m", "v4npu", "build-kernels", *arguments],
        env={**base, **environ}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_prints_the_path_or_one_sentence(
    toolkit: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    environ = toolkit()
    status, out, err = command("--soc", "ascend910b1", **environ)
    assert status == 0 and Path(out.strip()).exists() and "once" in err
    bare = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "other")}
    for arguments, expected, said in [
        (("--soc", "ascend910b1"), 1, "no Ascend compiler: bisheng is neither under ASCEND_HOME_PATH nor on PATH"),
        (("--soc", "ascend910b1", "--compiler", "/nonexistent/bisheng"), 1, "no Ascend compiler: /nonexistent/bisheng"),
        (("--soc", "ascend310"), 2, "got 'ascend310'"),
        ((), 2, "no NPU to compile for"),
    ]:
        status, out, err = command(*arguments, **bare)
        assert (status, out) == (expected, "") and said in err and err.count("\n") == 1
    assert command(SOC_VERSION="ascend310", **bare)[2].count("ascend310") == 1
    path = str(Path(environ["ASCEND_HOME_PATH"]) / "bin/bisheng")
    assert command("--soc", "ascend950dt", "--compiler", path, **bare)[0] == 0


def test_first_use_compiles_or_keeps_the_reason(
    toolkit: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("V4NPU_ASCEND_KERNELS", raising=False)
    for name, value in {**toolkit(), "PATH": "/usr/bin:/bin"}.items():
        monkeypatch.setenv(name, value)
    device._prepare_kernels.cache_clear()
    assert device._prepare_kernels("ascend310") == (
        f"no compiled kernels: soc must be of {build_kernels.FAMILIES}, got 'ascend310'"
    )
    assert device._prepare_kernels("Ascend950DT_9581") == ""
    assert Path(os.environ["V4NPU_ASCEND_KERNELS"]).read_text() == "compiled\n"
    monkeypatch.delenv("V4NPU_ASCEND_KERNELS")
    monkeypatch.delenv("ASCEND_HOME_PATH")
    device._prepare_kernels.cache_clear()
    assert "no Ascend compiler" in device._prepare_kernels("Ascend950DT_9581")
    device._prepare_kernels.cache_clear()

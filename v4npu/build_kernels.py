"""Compiles the Ascend kernels for a real chip with CANN's compiler; kept by source, flags and compiler version.

Kernels are shipped as text. `v4npu build-kernels` compiles them ahead of time, and `device.status` on first use. The
commands are those published for bisheng and its linker; the tests hold them to a stand-in for the compiler. Not run on
a device.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from v4npu import _C
from v4npu.kernel_cache import ASCEND, ROOT, built, cache_folder, kernel_ops, kernel_path

FLAGS = ("-O2", "-std=c++17", "--cce-aicore-only")
# Public build scripts turn the preload of arguments off on the 950, whose hardware has a fault there, they say.
FLAGS_OF = {2201: (), 3510: ("-mllvm", "-cce-aicore-dcpreload-args=false")}
LINK = ("-m", "aicorelinux", "-Ttext=0", "-static")
# The first CANN whose bisheng takes `.asc` files and --npu-arch for the architecture.
MINIMUM = {2201: (8, 5), 3510: (9, 1)}
FAMILIES = "the Ascend 910B (ascend910b...), 910C (ascend910_93...) or 950 (ascend950...)"


def build(soc: str, compiler: str = "bisheng", environ: Mapping[str, str] = os.environ) -> Path:
    """The compiled kernels for `soc`, one binary for its architecture; compiled if they are not kept yet.

    Args:
        soc: the chip, such as "ascend910b1" or "Ascend950DT".
        compiler: path, or a name that is looked for in CANN's folders and on PATH.
        environ: for ASCEND_HOME_PATH, ASCEND_TOOLKIT_HOME, PATH and the cache's folder.

    Raises:
        ValueError: no kernel is written for `soc`.
        RuntimeError: no compiler, a CANN that is too old, or the compiler failed.
    """
    arch = _C.ascend_architecture(soc)
    if arch == 0:
        raise ValueError(f"soc must be of {FAMILIES}, got {soc!r}")
    bisheng = _find(compiler, environ)
    linker = _find("ld.lld", environ, Path(bisheng).resolve().parent)
    _check_version(bisheng, soc, MINIMUM[arch], environ)
    sources = {op: kernel_path(op, arch) for op in kernel_ops()}
    headers = sorted([*(ASCEND / "common").glob("*.h"), *(ROOT / "csrc/include").rglob("*.h")])
    flags = (*FLAGS, f"--npu-arch=dav-{arch}", *FLAGS_OF[arch])
    texts = [path.read_text() for path in (*sources.values(), *headers)]

    def make(scratch: Path, target: Path) -> None:
        print(f"v4npu: {bisheng} compiles {len(sources)} kernel files for dav-{arch}, once", file=sys.stderr)

        def compiled(op: str) -> str:
            part = str(scratch / f"{op}.o")
            command = [bisheng, *flags, f"-I{ROOT / 'csrc/include'}", str(sources[op]), "-o", part]
            _run(command, Path(part), f"{op} for dav-{arch}")
            return part

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(compiled, sources))
        _run([linker, *LINK, *parts, "-o", str(target)], target, f"the kernels for dav-{arch}")

    inputs = [_version(bisheng), *flags, *LINK, *texts]
    return built(cache_folder(environ), f"kernels-dav{arch}-{{}}.o", inputs, make)


def _find(name: str, environ: Mapping[str, str], beside: Path | None = None) -> str:
    """A tool of CANN: beside another one, in the folders that CANN's set_env.sh names, or on PATH."""
    homes = [Path(environ[key]) for key in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME") if environ.get(key)]
    folders = [home / below for home in homes for below in ("bin", "compiler/ccec_compiler/bin")]
    search = [*([str(beside)] if beside else []), *map(str, folders), environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(search))
    if found is None:
        raise RuntimeError(
            f"no Ascend compiler: {name} is neither under ASCEND_HOME_PATH nor on PATH; install the CANN toolkit "
            "and source its set_env.sh, or name a compiler with --compiler"
        )
    return found


def _check_version(bisheng: str, soc: str, minimum: tuple[int, int], environ: Mapping[str, str]) -> None:
    """Refuses a toolkit that says it is older; one that does not say is tried."""
    for file in _install_files(bisheng, environ):
        if found := re.search(r"^version=(\d+)\.(\d+)\S*", file.read_text(), re.MULTILINE):
            if (int(found[1]), int(found[2])) < minimum:
                needed = ".".join(map(str, minimum))
                version = found[0].removeprefix("version=")
                raise RuntimeError(f"CANN {version} is too old: kernels for {soc} need {needed} or later ({file})")
            return


def _install_files(bisheng: str, environ: Mapping[str, str]) -> Iterator[Path]:
    homes = [*Path(bisheng).resolve().parents[:5], Path(environ.get("ASCEND_HOME_PATH") or "/nonexistent")]
    for home in homes:
        yield from sorted(home.glob("*-linux/ascend_toolkit_install.info"))


def _version(bisheng: str) -> str:
    try:
        done = subprocess.run([bisheng, "--version"], capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{bisheng} cannot be run: {error}") from error
    if done.returncode != 0:
        raise RuntimeError(f"{bisheng} --version failed with status {done.returncode}: {_gist(done.stderr)}")
    return done.stdout


def _run(command: Sequence[str], target: Path, what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed on {what} with status {done.returncode}: {_gist(done.stderr)}")
    if not target.is_file():
        raise RuntimeError(f"{command[0]} reported success on {what} and wrote nothing")


def _gist(text: str) -> str:
    """The first line that speaks of an error, or the first of all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it says nothing")

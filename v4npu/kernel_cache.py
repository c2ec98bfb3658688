"""Where kernel text lies, and what is compiled from it: once, kept on disk under a hash of all that went into it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

# The checkout's C++, or the copy that a wheel carries.
ROOT = next(
    p for p in (Path(__file__).parents[1], Path(__file__).parent / "native") if (p / "backends/ascend").is_dir()
)
ASCEND = ROOT / "backends/ascend"


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where compiled code is kept: $XDG_CACHE_HOME/v4npu or ~/.cache/v4npu."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "v4npu"


def kernel_ops() -> list[str]:
    """The operators that have an Ascend kernel for every architecture."""
    return sorted(path.name.removesuffix("_kernel.asc") for path in ASCEND.glob("ops/*_kernel.asc"))


def kernel_path(op: str, arch: int | None) -> Path:
    """The kernel of `op` for an architecture: its own file if there is one, such as fp8_linear_kernel_dav3510.asc."""
    own = ASCEND / f"ops/{op}_kernel_dav{arch}.asc"
    return own if own.exists() else ASCEND / f"ops/{op}_kernel.asc"


def compiler() -> tuple[str, str]:
    """The C++ compiler of this machine, $CXX, g++ or clang++, whichever is found first, and its version in words.

    Raises:
        RuntimeError: there is none.
    """
    for found in (os.environ.get("CXX"), "g++", "clang++"):
        if found and shutil.which(found):
            return found, subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout
    raise RuntimeError("the emulator is compiled on first use and needs a C++ compiler: set CXX or install g++")


def built(cache: Path, name: str, inputs: Iterable[str], make: Callable[[Path, Path], None]) -> Path:
    """The file or folder that `make(scratch, target)` makes of the inputs; made if it is not kept yet.

    Args:
        cache: folder, made if absent.
        name: such as "ascend-{}.so"; the braces are where the hash goes.
        inputs: all that the result depends on.
        make: writes `target`; `scratch` is an empty folder on the same file system.
    """
    kept = cache / name.format(hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:24])
    if kept.exists():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        target = Path(scratch) / "built"
        make(Path(scratch), target)
        try:
            os.replace(target, kept)
        except OSError:  # a folder that another process has put there
            if not kept.exists():
                raise
    return kept

"""An emulated Ascend NPU for the unmodified torch-npu wheel: builds the runtime and makes an environment for it.

The runtime is C++ text under backends/ascend/runtime: libraries named as CANN's, on host memory. Functions that
torch-npu names and the runtime lacks are compiled as calls that fail with their own name. Never run on a device.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from v4npu.emulated_kernels import all_sources, library, skus
from v4npu.kernel_cache import ASCEND, ROOT, built, cache_folder, compiler

RUNTIME = ASCEND / "runtime"
# The SKU that a product name without a number stands for: 32 AI cores at 1.65 GHz, whose figures are published.
PRODUCTS = {"ascend950dt": "ascend950dt_9581", "ascend950pr": "ascend950pr_9589"}
# What torch-npu loads beside libascendcl.so and libopapi.so; each only leads to those.
SHELLS = ("hccl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel")
FLAGS = ("-std=c++20", "-O2", "-fPIC", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-ffp-contract=off")


def sku_of(soc: str) -> str:
    """The SKU that `soc` names.

    Raises:
        ValueError: unknown; lists what there is.
    """
    known = skus()
    name = PRODUCTS.get(soc.lower(), soc.lower())
    if name not in known:
        raise ValueError(f"soc must be one of {', '.join(sorted((*PRODUCTS, *known)))}, got {soc!r}")
    return name


def real_runtime(environ: Mapping[str, str]) -> str | None:
    """The sign of a real Ascend installation, if there is one."""
    if os.path.exists("/dev/davinci_manager"):
        return "/dev/davinci_manager"
    for folder in environ.get("LD_LIBRARY_PATH", "").split(":"):
        library = Path(folder) / "libascendcl.so"
        if folder and library.exists() and not (Path(folder) / "emulated").exists():
            return str(library)
    return None


def environment(soc: str, environ: Mapping[str, str], force: bool = False) -> dict[str, str]:
    """`environ` for a process in which torch-npu finds an emulated `soc`; builds the runtime if it is not there yet.

    Raises:
        ValueError: unknown soc; a real runtime is installed and not `force`.
        RuntimeError: torch-npu or a C++ compiler is missing, or the compiler failed.
    """
    sku = sku_of(soc)
    arch = skus()[sku]
    if (found := real_runtime(environ)) and not force:
        raise ValueError(f"this machine has a real Ascend runtime ({found}); --force emulates one all the same")
    home = build(cache_folder(environ))
    kernels = library(all_sources(arch), arch, cache_folder(environ))
    libraries = [str(home / "lib64"), *filter(None, [environ.get("LD_LIBRARY_PATH")])]
    return {
        **environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_OPP_PATH": str(home / "opp"),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",
        "V4NPU_EMULATE_SOC": sku,
        "V4NPU_ASCEND_KERNELS": str(kernels),
    }


def build(cache: Path) -> Path:
    """The folder of a built runtime for the torch-npu that is installed here."""
    wheel, (cxx, version) = _torch_npu(), compiler()
    sources = sorted(RUNTIME.glob("*.cpp"))
    headers = [*RUNTIME.glob("*.h"), ASCEND / "emulation/skus.h", *(ROOT / "csrc/include/v4npu").glob("*.h")]
    stamp = (wheel / "lib/libtorch_npu.so").stat()
    texts = [p.read_text() for p in sorted([*sources, *headers])]
    key = [version, *FLAGS, str(stamp.st_size), str(stamp.st_mtime_ns), *texts]

    def make(scratch: Path, target: Path) -> None:
        _compile(cxx, sources, wheel, scratch, target)

    return built(cache, "ascend-{}", key, make)


def _torch_npu() -> Path:
    spec = importlib.util.find_spec("torch_npu")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("torch-npu is not installed: pip install torch==2.13.0 torch-npu==2.13.0")
    return Path(spec.submodule_search_locations[0])


def _compile(cxx: str, sources: Iterable[Path], wheel: Path, scratch: Path, home: Path) -> None:
    folder = home / "lib64"
    folder.mkdir(parents=True)
    for part in ("opp", "runtime", "compiler"):  # torch-npu asks whether these folders of a toolkit exist
        (home / part).mkdir()
    (folder / "emulated").touch()
    missing = {scratch / "missing_acl.cpp": _acl_stubs(wheel), scratch / "missing_aclnn.cpp": _aclnn_stubs(wheel)}
    for path, text in missing.items():
        path.write_text(text)
    includes = [f"-I{folder}" for folder in (RUNTIME, ROOT / "csrc/include")]

    def compiled(source: Path) -> Path:
        target = scratch / (source.name + ".o")
        _run([cxx, *FLAGS, *includes, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, (*sources, *missing)))
    operators = [o for o in objects if re.search(r"aclnn|tensor", o.name)]

    def link(name: str, *inputs: Path | str) -> None:
        shared = ["-shared", f"-Wl,-soname,{name}", "-Wl,-rpath,$ORIGIN", "-pthread"]
        _run([cxx, *shared, "-o", str(folder / name), *map(str, inputs), "-ldl"])

    link("libascendcl.so", *(o for o in objects if o not in operators))
    reach = (f"-L{folder}", "-Wl,--no-as-needed", "-lascendcl")
    link("libopapi.so", *operators, *reach)
    for name in SHELLS:
        link(f"lib{name}.so", *reach)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed on the emulated runtime:\n{done.stderr}")


def _acl_stubs(wheel: Path) -> str:
    """Functions that the wheel links against; weak, so that the runtime's own come first."""
    if shutil.which("nm") is None:
        raise RuntimeError("the emulated runtime needs nm, of the binutils that come with the compiler")
    libraries = [wheel / "lib/libtorch_npu.so", wheel / "lib/libtensorpipe.so", *wheel.glob("_C*.so")]
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", *map(str, libraries)], check=True, capture_output=True, text=True
    ).stdout
    names = sorted(set(re.findall(r" U ((?:acl|rt|Hccl|Msprof)[A-Za-z0-9]+)$", listed, re.MULTILINE)))
    return '#include "missing.h"\n' + "".join(f"V4NPU_MISSING({name})\n" for name in names)


def _aclnn_stubs(wheel: Path) -> str:
    """Functions that the wheel looks up by name, but for later versions of one: without them it takes the first."""
    content = (wheel / "lib/libtorch_npu.so").read_bytes()
    found = {n.decode() for n in re.findall(rb"\b(acl[A-Za-z0-9]+)GetWorkspaceSize\b", content)}
    names = sorted(n for n in found if not (re.search(r"V\d$", n) and n[:-2] in found))
    return '#include "missing.h"\n' + "".join(f"V4NPU_MISSING_ACLNN({name})\n" for name in names)

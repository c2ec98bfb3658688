"""The rules of the house that a machine can check: budgets, forbidden includes, every operator complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import v4npu.reference as reference
from v4npu import _C
from v4npu.testing.ascend_ops import EmulatedOps
from v4npu.testing.cases import arguments
from v4npu.testing.tolerances import ERROR_RATIO

ROOT = Path(__file__).parents[2]
CPP = {".cpp", ".h", ".cu", ".cuh", ".asc"}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def sources(folder: str, suffixes: set[str]) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes and "__pycache__" not in p.parts)


def budgets() -> list[tuple[Path, int]]:
    found = [(p, 300) for p in sources("v4npu", {".py"})]
    found += [(p, 250) for p in sources("tests", {".py"})]
    for path in sources("backends", CPP):
        if path.parent.name == "ops":
            found.append((path, 500 if path.stem.split("_kernel")[0] != path.stem else 60))
        else:
            found.append((path, 500))
    found += [(p, 500) for p in sources("csrc", CPP)]
    return found


def test_files_stay_within_their_budgets() -> None:
    over = [f"{p.relative_to(ROOT)}: {lines(p)} > {limit}" for p, limit in budgets() if lines(p) > limit]
    assert not over, over


def test_no_two_tests_of_a_run_have_one_name() -> None:
    """pytest imports them by their file's name alone; tests/npu is a run of its own."""
    names = [p.name for p in sources("tests", {".py"}) if p.name.startswith("test_") and p.parent.name != "npu"]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


VENDOR = r"cuda|acl/|acl\.h|torch_npu|kernel_operator|cublas|cudnn|hip/"
FORBIDDEN = {
    # folder: what no file in it may include
    "csrc/include": rf"torch|ATen|c10|pybind11|Python\.h|{VENDOR}",
    "csrc": rf"{VENDOR}|backends/",
    "backends/cpu": rf"{VENDOR}|backends/(cuda|ascend)|\.\./(cuda|ascend)/",
    "backends/cuda": r"acl/|torch_npu|kernel_operator|backends/(cpu|ascend)|\.\./(cpu|ascend)/",
    "backends/ascend": r"cuda|cublas|cudnn|backends/(cpu|cuda)|\.\./(cpu|cuda)/",
}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_forbidden_include(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources(folder, CPP)
        for line in path.read_text().splitlines()
        if re.match(rf'\s*#\s*include\s*[<"][^>"]*({FORBIDDEN[folder]})', line)
    ]
    assert not wrong, wrong


# What a kernel compiled for several instruction sets may include; the reason is in backends/cpu/simd.h.
KERNEL_INCLUDES = (
    r"v4npu/.*|parallel\.h|scratch\.h|paged/.*|simd\.h|simd/.*|(no_bf16_dot|no_zmm|one_part|plain_codes|zmm|avx512)\.h"
    r"|gemm(_rows|_amx|_amx_rows|_amx_fp4|_pairs|_workspace)?\.h|cstdint|cstring|immintrin\.h|arm_neon\.h"
)


HEADERS = (
    "simd.h",
    "parallel.h",
    "gemm.h",
    "gemm_rows.h",
    "gemm_amx.h",
    "gemm_amx_rows.h",
    "gemm_amx_fp4.h",
    "gemm_pairs.h",
    "gemm_workspace.h",
    "scratch.h",
)


def test_cpu_kernels_include_nothing_that_the_linker_could_share() -> None:
    cpu = ROOT / "backends/cpu"
    shared = [*cpu.glob("ops/*_kernel*.cpp"), *cpu.glob("simd/*.h"), *map(cpu.joinpath, HEADERS)]
    shared += [p for p in cpu.glob("paged/*.h") if p.name != "launch.h"]
    found = [
        (path.name, line)
        for path in shared
        for line in re.findall(r'^\s*#\s*include\s*[<"]([^>"]*)[>"]', path.read_text(), re.MULTILINE)
    ]
    assert found
    assert not [hit for hit in found if not re.fullmatch(KERNEL_INCLUDES, hit[1])]


def test_the_stub_of_the_extension_names_what_is_in_it() -> None:
    def public(names: Iterable[str]) -> set[str]:
        return {name for name in names if not name.startswith("_")}

    def declared(body: list[ast.stmt]) -> set[str]:
        fields = [
            node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]
        return public([*fields, *(node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef))])

    stub = ast.parse((ROOT / "v4npu/_C.pyi").read_text()).body
    assert declared(stub) == public(dir(_C))
    for node in stub:
        if isinstance(node, ast.ClassDef):
            assert declared(node.body) == public(dir(getattr(_C, node.name))), node.name


def test_no_pickle_and_no_unchecked_torch_load() -> None:
    banned = re.compile(r"\bimport (pickle|dill|shelve|marshal)\b|\btorch\.load\(|allow_pickle=True")
    wrong = [str(p.relative_to(ROOT)) for p in sources("v4npu", {".py"}) if banned.search(p.read_text())]
    assert not wrong, wrong


def test_only_device_py_names_devices() -> None:
    named = re.compile(r"""['"](cuda|npu)(['"]|:(?!:))|torch\.(cuda|npu)\b|\bimport torch_npu\b""")
    wrong = [
        str(p.relative_to(ROOT))
        for p in sources("v4npu", {".py"})
        if p.name != "device.py" and named.search(p.read_text())
    ]
    assert not wrong, wrong


def test_the_schema_has_no_duplicates_and_torch_knows_every_op() -> None:
    names = _C.op_names()
    assert len(set(names)) == len(names) == len(_C.schemas())
    for name in names:
        assert hasattr(torch.ops.v4npu, name) and hasattr(torch.ops.v4npu_check, name)


@pytest.mark.parametrize("op", _C.op_names())
def test_every_op_has_header_check_reference_wrapper_and_arguments(op: str) -> None:
    header = (ROOT / f"csrc/include/v4npu/ops/{op}.h").read_text()
    params = "".join(word.capitalize() for word in op.split("_")) + "Params"
    assert header.startswith(f"// {op}: ") and f"struct {params} {{" in header and "// Steps" in header
    assert f'm.impl("{op}", TORCH_BOX(&v4npu::check_{op}))' in (ROOT / f"csrc/ops/{op}.cpp").read_text()
    assert callable(getattr(reference, op))
    assert f"def {op}(" in (ROOT / "v4npu/ops.py").read_text()
    assert arguments(op), "tests/ops/test_operators.py runs it with these"


@pytest.mark.parametrize("op", _C.op_names())
def test_every_pointer_of_a_contract_says_its_shape(op: str) -> None:
    header = (ROOT / f"csrc/include/v4npu/ops/{op}.h").read_text()
    pointers = [line for line in header.splitlines() if re.match(r"\s+(const )?\w+\* \w+;", line)]
    bare = [line for line in pointers if not re.search(r"//.*(\[|as w1)", line)]
    assert pointers and not bare, bare


def test_every_ascend_kernel_states_its_architectures_and_that_no_device_ran_it() -> None:
    for path in sources("backends/ascend/ops", {".asc"}):
        head = path.read_text().split("#include")[0]
        assert re.search(r"// Architectures: (dav_2201|dav_3510)", head) and "Never run on a device." in head, path


def test_no_ascend_kernel_has_a_lambda() -> None:
    """Its operator() is not __aicore__, so Ascend's compiler takes it for code of the host."""
    opening = re.compile(r"(?<![\w\])])\s*\[[^\[\]]*\]\s*(<[^>]*>\s*)?(\([^()]*\)|\{)")
    assert opening.search("f([this, &a](int i) { return a; });") and opening.search("auto f = [] { return 1; };")
    assert opening.search("return [=](auto x) mutable { };") and not opening.search("float a[] = {x[2] (1), y_[i]};")
    paths = [*sources("backends/ascend/ops", {".asc"}), *sources("backends/ascend/common", CPP)]
    for path in [*paths, *sources("tests/ascend", {".asc"})]:
        text = re.sub(r"//.*", "", path.read_text())
        assert not opening.search(text), (path, opening.search(text))


def test_every_ascend_kernel_has_a_launcher_a_plan_and_a_row_of_its_page() -> None:
    folder = ROOT / "backends/ascend/ops"
    kernels = sorted(p.name.removesuffix("_kernel.asc") for p in folder.glob("*_kernel.asc"))
    launchers = sorted(p.stem for p in folder.glob("*.cpp"))
    caps = _C.DeviceCaps()
    caps.kind, caps.name, caps.available = "npu", "ascend950dt", True
    planned = {op: _C.plan(op, caps).variant for op in _C.op_names()}
    page = (ROOT / "backends/ascend/README.md").read_text()
    told = re.findall(r"^\| (\w+) \| (ascendc|reference) \|", page, re.MULTILINE)
    assert kernels == launchers == sorted(op for op, v in planned.items() if v == "ascendc")
    assert all(callable(getattr(EmulatedOps, op)) for op in kernels)
    assert dict(told) == planned and len(told) == len(planned)


def test_every_kernel_has_a_contract() -> None:
    ops = set(_C.op_names())
    for path in sources("backends", CPP):
        if path.parent.name == "ops":
            assert path.stem.split("_kernel")[0] in ops, path


def test_every_cuda_kernel_has_a_launcher_and_a_plan_and_includes_nothing_of_cuda() -> None:
    folder = ROOT / "backends/cuda/ops"
    kernels = sorted(p.name.removesuffix("_kernel.cu") for p in folder.glob("*_kernel.cu"))
    launchers = sorted(p.stem for p in folder.glob("*.cpp"))
    caps = _C.DeviceCaps()
    caps.kind, caps.name, caps.features = "cuda", "sm_90", ["kernels"]
    planned = sorted(op for op in _C.op_names() if _C.plan(op, caps).variant == "sm80")
    assert kernels == launchers == planned
    for path in [*folder.glob("*.cu"), *(ROOT / "backends/cuda/device").iterdir()]:
        included = re.findall(r'^\s*#\s*include\s*[<"]([^>"]*)[>"]', path.read_text(), re.MULTILINE)
        wrong = [
            name
            for name in included
            if not re.fullmatch(r"v4npu/.*|(\.\./device/)?\w+\.cuh|emulation\.h|shape\.h|cmath|cstdint", name)
        ]
        assert not wrong, (path, wrong)


def test_every_cpu_kernel_has_a_launcher_a_plan_and_a_tolerance() -> None:
    folder = ROOT / "backends/cpu/ops"
    kernels = sorted(p.stem.removesuffix("_kernel") for p in folder.glob("*_kernel.cpp"))
    launchers = sorted(p.stem for p in folder.glob("*.cpp") if not p.stem.endswith("_kernel"))
    caps = _C.DeviceCaps()
    caps.kind = "cpu"
    planned = sorted(op for op in _C.op_names() if _C.plan(op, caps).variant == "portable")
    assert kernels == launchers == planned == sorted(ERROR_RATIO)

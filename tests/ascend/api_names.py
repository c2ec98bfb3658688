"""The vendor's names in the text of kernels, and the list of those that the public headers have (api_names.txt)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from v4npu.kernel_cache import ASCEND

HERE = Path(__file__).parent
FILES = (*sorted(ASCEND.glob("ops/*.asc")), *sorted(HERE.glob("*.asc")), *sorted(ASCEND.glob("common/*.h")))
# How the vendor's names look: CamelCase, camelCase, CAPITALS, __words__, and types and functions by prefix or suffix.
# Our constants begin with k, the rest of ours is snake_case or declared in our text.
_VENDOR = re.compile(r"(?!k[A-Z])([A-Z]\w*|[a-z]+[A-Z]\w*|__\w+__|asc_\w+|half|bfloat16_t|fp[48]\w*_t|event_t|pipe_t)")
_OURS = re.compile(r"(?:#define|\b(?:enum class|class|struct|enum|typename|using|Args))\s+(\w+)")
_NAME = re.compile(r"(\.\s*|->\s*)?(?:template\s+)?((?:\w+::)*\w+)")


@dataclass(frozen=True)
class Use:
    """A name as the text has it, where, and whether it is a member or lies where AscendC::Reg is open."""

    place: str
    name: str
    member: bool
    in_reg: bool


def listed() -> dict[str, set[int]]:
    """Name -> the architectures whose public headers have it."""
    rows = [line.split("|") for line in (HERE / "api_names.txt").read_text().splitlines() if line[:1] not in ("#", "")]
    return {name.strip(): {int(arch) for arch in archs.split()} for name, archs, _ in rows}


def architectures(path: Path) -> list[int]:
    """Those that a kernel file says it is for, in the line `// Architectures: ...`; of a header by its name."""
    if path.suffix == ".h":
        return [3510] if path.stem.endswith("_dav3510") else [2201, 3510]
    found = re.search(r"// Architectures: ([^.]*)\.", path.read_text())
    return [int(arch) for arch in re.findall(r"dav_(\d+)", found[1])] if found else []


def compiled(text: str, arch: int) -> list[str]:
    """The lines that the architecture's compiler sees, without comments and strings; others are empty."""
    lines, seen = [], [True]
    for line in text.splitlines():
        line = re.sub(r'//.*|"[^"]*"', "", line)
        if match := re.match(r"#\s*if\s+__NPU_ARCH__\s*([!=])=\s*(\d+)", line):
            seen.append(seen[-1] and (match[1] == "=") == (int(match[2]) == arch))
        elif re.match(r"#\s*else", line):
            seen[-1] = seen[-2] and not seen[-1]
        elif re.match(r"#\s*endif", line):
            seen.pop()
        elif re.match(r"#\s*(if|elif)", line):
            raise ValueError(f"only conditions on __NPU_ARCH__ are understood: {line}")
        elif seen[-1] and not line.startswith("#"):
            lines.append(line)
            continue
        lines.append("")
    return lines


def uses(path: Path, arch: int) -> list[Use]:
    """The vendor's names in a file."""
    ours = {name for file in FILES for name in _OURS.findall(file.read_text())}
    found, depth, opened = [], 0, None
    for number, line in enumerate(compiled(path.read_text(), arch), 1):
        if "using namespace AscendC::Reg;" in line:
            opened = depth
        depth += line.count("{") - line.count("}")
        if opened is not None and depth < opened:
            opened = None
        for member, chain in _NAME.findall(line):
            name = re.sub(r"^(AscendC|v4npu)::", "", chain)
            last = name.split("::")[-1]
            if _VENDOR.fullmatch(last) and name != "AscendC" and not {last, name.split("::")[0]} & ours:
                found.append(Use(f"{path.name}:{number}", name, bool(member), opened is not None))
    return found


def known(use: Use, names: dict[str, set[int]], arch: int) -> bool:
    """Whether the architecture's public headers have the name."""
    if use.member:
        return any(arch in archs for name, archs in names.items() if name.endswith(f"::{use.name}"))
    return any(arch in names.get(name, ()) for name in (use.name, *([f"Reg::{use.name}"] if use.in_reg else [])))

"""Kernels use only names of the vendor's API that its public headers have for the architectures a file is for."""

from __future__ import annotations

import re

import pytest
from api_names import FILES, architectures, known, listed, uses

from v4npu.kernel_cache import ASCEND


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_says_its_architectures_and_stops_the_compiler_of_another(path):
    found = architectures(path)
    assert found and set(found) <= {2201, 3510}, "wanted: a line // Architectures: dav_2201 and dav_3510."
    guard = re.search(r"^static_assert\(__NPU_ARCH__ == (\d+), ", path.read_text(), re.MULTILINE)
    assert (guard is not None) == (len(found) == 1) and (guard is None or int(guard[1]) == found[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_name_is_one_of_the_public_headers(path):
    names = listed()
    for arch in architectures(path):
        found = uses(path, arch)
        assert len(found) > 8
        unknown = [f"{use.place}: {use.name}, dav_{arch}" for use in found if not known(use, names, arch)]
        assert not unknown, unknown


def test_the_emulator_offers_no_function_that_the_vendor_does_not():
    names, count = listed(), 0
    for path in sorted((ASCEND / "emulation").glob("*.h")):
        text = re.sub(
            r"^namespace detail \{.*?^\}  // namespace detail$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE
        )
        for prefix, scope in (
            ("Reg::", r"^namespace (?:AscendC::)?Reg \{(.*?)^\}  // namespace (?:AscendC::)?Reg$"),
            ("", r"^namespace AscendC \{(.*?)^(?:namespace Reg|\}  // namespace AscendC$)"),
        ):
            for body in re.findall(scope, text, re.DOTALL | re.MULTILINE):
                found = re.findall(r"^(?:inline |constexpr )*[\w:<>]+[&*]? ([A-Z]\w+)\(", body, re.MULTILINE)
                found += re.findall(r"^(?:REG|VECTOR)_[A-Z]+\((\w+)", body, re.MULTILINE)
                found += re.findall(r"^(?:enum class|enum|struct|class) (\w+)", body, re.MULTILINE)
                assert not [name for name in found if prefix + name not in names], path.name
                count += len(found)
    assert count > 120


FAULTS = {
    "a function that does not exist": ("AscendC::Muls(", "AscendC::Mulz("),
    "an event that does not exist": ("HardEvent::MTE2_V", "HardEvent::MTE2_X"),
    "a member that does not exist": (".InitBuffer(", ".InitTensor("),
    "a pipe that does not exist": ("PIPE_ALL", "PIPE_MTE4"),
    "register code on 2201": ("AscendC::Muls(", "AscendC::Reg::Muls("),
    "a parameter of 3510": ("AscendC::DataCopy(in", "AscendC::Dn2NzParams(in"),
    "a type of 3510": ("<float>(", "<fp8_e4m3fn_t>("),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_name_is_found(tmp_path, fault):
    text = next(path for path in FILES if path.name == "faults.asc").read_text()
    assert FAULTS[fault][0] in text
    path = tmp_path / "faults.asc"
    path.write_text(text.replace(*FAULTS[fault]))
    assert any(not known(use, listed(), 2201) for use in uses(path, 2201))
    path.write_text(text)
    assert all(known(use, listed(), 2201) for use in uses(path, 2201))


def test_names_behind_a_condition_count_for_their_architecture_alone(tmp_path):
    path = tmp_path / "both.asc"
    path.write_text("#if __NPU_ARCH__ == 3510\nAscendC::MmadMx();\n#else\nAscendC::Mmad();\n#endif\nAscendC::Abs();\n")
    assert [use.name for use in uses(path, 2201)] == ["Mmad", "Abs"]
    assert [use.name for use in uses(path, 3510)] == ["MmadMx", "Abs"]

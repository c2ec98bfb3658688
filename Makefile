# make demo     generate text with the bundled model        make lint     ruff, mypy, clang-format
# make test     lint and every test                         make format   apply ruff and clang-format
# make bench    every operator at the sizes of a small layer, against what this machine could do
# make sanitize CPU kernels under the address, undefined-behaviour and thread sanitizers; needs only a compiler
# make cuda     CUDA kernels for sm_80, sm_90a and sm_100, with a check of what each takes: no GPU, and nvcc 12.8 or later
#               or NVIDIA's wheels of it, which go into .venv-nvcc; a wheel built afterwards carries them
# make cuda-12.8  the same kernels and check by NVIDIA's wheels of CUDA 12.8, in .venv-nvcc-12.8; nothing is used
# make neon     CPU kernels for Arm under an emulator: g++-aarch64-linux-gnu and qemu-user
# make test-npu the Ascend backend through torch-npu in .venv-npu on an emulated NPU; SOC=ascend910b1 picks another
#
# Each target sets up .venv first; a rerun costs nothing unless a source changed.
# PYTHON=python3.12 picks an interpreter, TORCH="torch==2.11.0" a torch, PIP="..." adds options to pip.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
TORCH ?= torch==2.13.0
PIP ?=
JOBS ?= 2
SOC ?= ascend950dt
# Read by pyproject.toml: the same for every build of the extension, or the next would compile it anew.
export V4NPU_WERROR := $(if $(CI),ON,OFF)
NVCC ?= $(shell command -v nvcc || echo .venv-nvcc/nvcc)

BIN := .venv/bin
# -P: on the installed package, not on the checkout.
NPU := .venv-npu/bin/python -P -m
# Python's bytecode is compiled when it is first imported: most never is.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile $(PIP)
INSTALL := $(BIN)/python $(PIP_INSTALL)
PACKAGE := $(shell find v4npu -name '*.py' -o -path '*/data/*' -type f)
CXX_SOURCES := $(shell find csrc backends -name '*.cpp' -o -name '*.h')
TEST_SOURCES := $(shell find tests -name '*.cpp' -o -name '*.h')
DEVICE_SOURCES := $(shell find backends tests -name '*.asc' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help demo bench test test-npu emulated sanitize neon cuda cuda-12.8 lint format clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: .venv/built
	$(BIN)/v4npu generate nano --prompt "Call me Ishmael." --max-new-tokens 120

bench: .venv/built
	$(BIN)/v4npu bench ops --sizes small --seconds 0.1

test: lint emulated
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The emulated chips' kernels: left to the tests, each of their processes would compile them.
emulated: .venv/built
	$(BIN)/python -c "from v4npu.testing.ascend import all_kernels as a; a(2201); a(3510)"

test-npu: .venv/built .venv/tools .venv-npu/runtime
	OMP_NUM_THREADS=1 V4NPU_TEST_DEVICE=npu:0 $(NPU) v4npu emulate --soc $(SOC) -- \
		$(NPU) pytest tests/npu tests/ops/test_operators.py -n $(JOBS) --dist loadfile --no-loadscope-reorder

sanitize neon:
	JOBS=$(JOBS) tests/native/kernels.sh $@

# Where one call asks for both: neon compares with what sanitize has written, a wheel carries what cuda has compiled, and
# the emulated NPU comes with the kernels of one architecture.
neon: | $(filter sanitize,$(MAKECMDGOALS))
.venv/built: | $(filter cuda,$(MAKECMDGOALS))
emulated: | $(filter .venv-npu/runtime,$(MAKECMDGOALS))

# Compiled in build/cuda, where the tests and bench/cuda_device.py find what is up to date; used from beside `_C`.
cuda: $(filter .venv-nvcc/nvcc,$(NVCC))
	$(PYTHON) backends/cuda/build.py --nvcc $(NVCC) --jobs $(JOBS)
	@mkdir -p v4npu/cuda && cp build/cuda/*.fatbin v4npu/cuda/
	@test ! -e .venv/built || cp -r v4npu/cuda "$$(dirname "$$(readlink -f v4npu/_C.*.so)")/"

cuda-12.8: .venv-nvcc-12.8/nvcc
	$(PYTHON) backends/cuda/build.py --nvcc $< --out build/$@ --jobs $(JOBS)

lint: .venv/built .venv/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES) $(DEVICE_SOURCES) $(TEST_SOURCES)

format: .venv/tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES) $(DEVICE_SOURCES) $(TEST_SOURCES)

clean:
	rm -rf .venv .venv-npu .venv-nvcc .venv-nvcc-12.8 build v4npu/cuda v4npu/_C*.so

# Torch first: the extension is compiled against its headers, hence no build isolation.
.venv/torch:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade pip
	$(INSTALL) "$(TORCH)" numpy "scikit-build-core>=0.11" "pybind11>=3.0" cmake ninja
	@touch $@

# The checkout is importable too: its Python is the one under work, so tests run on it.
.venv/built: .venv/torch pyproject.toml CMakeLists.txt $(wildcard backends/*/*.cmake) $(CXX_SOURCES) $(DEVICE_SOURCES) $(PACKAGE)
	$(INSTALL) --no-build-isolation .
	@ln -sf $$($(CURDIR)/$(BIN)/python -I -c 'import torch, v4npu; print(v4npu._C.__file__)') v4npu/
	@touch $@

# nvcc as wheels; it finds its parts by where it lies.
.venv-nvcc/nvcc:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv-nvcc
	.venv-nvcc/bin/python $(PIP_INSTALL) \
		"nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-nvvm==13.0.*" "nvidia-cuda-runtime==13.0.*"
	@printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$(find "$(CURDIR)/.venv-nvcc" -path '*/bin/nvcc' -type f)" > $@
	@chmod +x $@
	@$@ --version > /dev/null

# CUDA 12 has no wheel with nvcc in it.
.venv-nvcc-12.8/nvcc:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv-nvcc-12.8
	.venv-nvcc-12.8/bin/python $(PIP_INSTALL) \
		"nvidia-cuda-nvcc-cu12==12.8.*" "nvidia-cuda-nvrtc-cu12==12.8.*" "nvidia-nvfatbin-cu12==12.8.*"
	@printf '#!/bin/sh\nexec "%s" "%s" "$$@"\n' "$(CURDIR)/.venv-nvcc-12.8/bin/python" \
		"$(CURDIR)/backends/cuda/nvrtc.py" > $@
	@chmod +x $@
	@$@ --version > /dev/null

# The wheel of torch-npu beside all that .venv has, but not in it: it would be loaded by every `import torch` there.
.venv-npu/built: | .venv/built .venv/tools
	$(BIN)/python -m venv .venv-npu
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
		"$$(.venv-npu/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	.venv-npu/bin/python $(PIP_INSTALL) torch-npu==2.13.0
	@touch $@

# The emulated NPU's own libraries, which two runs of test-npu would each compile.
.venv-npu/runtime: .venv-npu/built .venv/built
	$(NPU) v4npu emulate --soc $(SOC) -- true
	@touch $@

# The dependencies alone: asking for the package with its extra would compile it a second time.
.venv/tools: pyproject.toml | .venv/built
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"] \
		["optional-dependencies"]["test"], sep="\n")' > .venv/test.txt
	$(INSTALL) -r .venv/test.txt
	@touch $@

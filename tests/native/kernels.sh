#!/bin/sh
# kernels.sh sanitize   builds the CPU kernels and their driver with the address and undefined-behaviour sanitizers for
#                       every instruction set of this machine, then with the thread sanitizer for the best, runs them,
#                       and wants the digests of AVX2 from AVX-512 without bfloat16. AMX's tiles are in memory, where
#                       sanitizers see them, so VBMI is enough for it, and for AVX-512 with bfloat16, then emulated
# kernels.sh neon       builds them for Arm, runs them under an emulator, and wants the digests of AVX2 (on x86-64)
# JOBS compilers at a time: on two some minutes, the more the more instruction sets a machine has.
set -eu
cd "$(dirname "$0")/../.."
jobs=${JOBS:-2}

# The instructions come from where the build has them, where a list may begin with another's.
flags_of() (
  own=$(sed -n "s/^set(flags_$1 \([^)]*\)).*/\1/p" backends/cpu/kernels.cmake)
  other=$(echo "$own" | sed -n 's/^${flags_\([a-z0-9]*\)}.*/\1/p')
  if [ -n "$other" ]; then flags_of "$other"; fi
  printf '%s ' "${own#*\}}"
)

# build <folder> <compiler> <instruction set> <flags>: leaves <folder>/kernels.
build() {
  folder=build/native/$1 cxx=$2 isa=$3
  shift 3
  mkdir -p "$folder"
  allowed=$(flags_of "$isa")
  case $isa in amx | avx512)
    if ! grep -q ' avx512_bf16 ' /proc/cpuinfo; then
      allowed="$(echo "$allowed" | sed 's/-mavx512bf16//') -include tests/native/emulated_bf16.h"
    fi ;;
  esac
  if [ "$isa" = amx ]; then allowed="$allowed -DV4NPU_TILES=emulated_tiles.h -Itests/native"; fi
  for source in backends/cpu/ops/*_kernel.cpp tests/native/*.cpp; do
    echo "$cxx -std=c++20 -g1 -ffp-contract=off -fno-math-errno -Wno-maybe-uninitialized -Wno-uninitialized" \
      "-DV4NPU_ISA=$isa -Icsrc/include -Ibackends/cpu $allowed $* -c $source -o $folder/$(basename "$source" .cpp).o"
  done | xargs -P "$jobs" -I{} sh -c '{}'
  "$cxx" "$@" "$folder"/*.o -o "$folder/kernels" -pthread
}

case ${1:-} in
  sanitize)
    isas=portable
    if [ "$(uname -m)" = aarch64 ]; then isas="neon $isas"; fi
    if grep -q ' avx2 ' /proc/cpuinfo; then isas="avx2 $isas"; fi
    if grep -q ' avx512dq ' /proc/cpuinfo; then isas="avx512f $isas"; fi
    if grep -q ' avx512vbmi ' /proc/cpuinfo && grep -q ' avx512_vnni ' /proc/cpuinfo; then isas="amx avx512 $isas"; fi
    for sanitizer in address,undefined thread; do
      if [ $sanitizer = thread ]; then isas=${isas%% *}; fi  # what threads share is the same in each
      for isa in $isas; do
        level=-O0  # half the time of -O1 to compile, and nothing is optimised away before it is checked
        if [ $sanitizer = thread ]; then level=-O1; fi  # compiles quickly, and would run three times as long
        build "$sanitizer-$isa" "${CXX:-g++}" "$isa" $level "-fsanitize=$sanitizer" -fno-sanitize-recover=all
        "$folder/kernels" > "$folder/digests"
        echo "$isa: $sanitizer clean"
      done
    done
    both="build/native/address,undefined-avx512f/digests build/native/address,undefined-avx2/digests"
    if grep -q ' avx512dq ' /proc/cpuinfo; then diff $both && echo "avx512f: every bit as avx2 has it"; fi ;;
  neon)
    wanted=build/native/address,undefined-avx2/digests # of `kernels.sh sanitize`, unless a source has changed since
    if ! [ -s "$wanted" ] || [ -n "$(find backends/cpu csrc/include tests/native -type f -newer "$wanted")" ]; then
      build avx2 "${CXX:-g++}" avx2 -O1
      wanted=$folder/digests
      "$folder/kernels" > "$wanted"
    fi
    build neon aarch64-linux-gnu-g++ neon -O1 -static
    qemu-aarch64 "$folder/kernels" > "$folder/digests"
    diff "$wanted" "$folder/digests"
    echo "neon: every bit as avx2 has it" ;;
  *)
    sed -n '2,7s/^# //p' "$0" >&2
    exit 2 ;;
esac

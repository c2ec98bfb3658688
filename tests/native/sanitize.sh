#!/bin/sh
# Builds the CPU kernels and kernels.cpp with the address and undefined-behaviour sanitizers, then with the thread
# sanitizer, and runs them, for every instruction set of this machine. JOBS compilers at a time, about a minute on two.
set -eu
cd "$(dirname "$0")/../.."
cxx=${CXX:-g++} build=build/sanitize

isas=portable
case $(uname -m) in
  x86_64)
    if grep -q ' avx2 ' /proc/cpuinfo; then isas="avx2 $isas"; fi
    if grep -q ' avx512_bf16 ' /proc/cpuinfo; then isas="avx512 $isas"; fi ;;
  aarch64) isas="neon $isas" ;;
esac

for sanitizer in address,undefined thread; do
  for isa in $isas; do
    folder=$build/$sanitizer/$isa
    mkdir -p "$folder"
    # The instructions come from where the build has them.
    allowed=$(sed -n "s/^set(flags_$isa \(.*\))$/\1/p" backends/cpu/kernels.cmake)
    flags="-std=c++20 -O1 -g1 -ffp-contract=off -fno-math-errno -fsanitize=$sanitizer -fno-sanitize-recover=all
      -Wno-maybe-uninitialized -Wno-uninitialized -DV4NPU_ISA=$isa -Icsrc/include -Ibackends/cpu $allowed"
    for source in backends/cpu/ops/*_kernel.cpp tests/native/kernels.cpp; do
      object=$folder/$(basename "$source" .cpp).o
      # shellcheck disable=SC2086
      echo $cxx $flags -c "$source" -o "$object"
    done | xargs -P "${JOBS:-2}" -I{} sh -c '{}'
    "$cxx" -fsanitize=$sanitizer "$folder"/*.o -o "$folder/kernels" -pthread
    "$folder/kernels"
    echo "$isa: $sanitizer clean"
  done
done

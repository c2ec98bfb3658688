# Every ops/<op>_kernel.cpp is one source, compiled once per instruction set into namespace v4npu::cpu::<isa>; the
# running machine picks one (isa.cpp). Not v4npu_options: a kernel sees csrc/include and this folder, never torch.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(isas amx avx512 avx512f avx2 portable)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(isas neon portable)
else()
  set(isas portable)
endif()
# What plan/cpu_isa.cpp asks of the machine, in the compiler's words.
set(flags_avx2 -mavx2 -mfma -mf16c)
set(flags_avx512f ${flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
set(flags_avx512 ${flags_avx512f} -mavx512vnni -mavx512bf16 -mavx512vbmi)
set(flags_amx ${flags_avx512} -mamx-tile -mamx-bf16)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC's own intrinsics start from a variable initialised with itself (gcc.gnu.org/PR105593).
  list(APPEND flags_avx512f -Wno-maybe-uninitialized -Wno-uninitialized)
  list(APPEND flags_avx512 -Wno-maybe-uninitialized -Wno-uninitialized)
  list(APPEND flags_amx -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
set(flags_portable -Wno-psabi)  # its vectors are never passed: all that takes them is inlined

file(GLOB kernels CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/ops/*_kernel.cpp")
foreach(isa IN LISTS isas)
  set(target v4npu_cpu_${isa})
  add_library(${target} OBJECT ${kernels})
  target_include_directories(${target} PRIVATE csrc/include backends/cpu)
  set_target_properties(${target} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
  target_compile_definitions(${target} PRIVATE V4NPU_ISA=${isa})
  # -ffp-contract=off: fused multiply-add only where written, else a row's result would depend on how the compiler
  # unrolled the loop it fell into.
  target_compile_options(${target} PRIVATE ${flags_${isa}} -ffp-contract=off -fno-math-errno -Wall -Wextra
                                           $<$<BOOL:${V4NPU_WERROR}>:-Werror>)
  # The linker keeps one copy of an inline function that several objects hold. Were it the one compiled with wide
  # instructions, a lesser machine would stop at it, so no kernel object may define a symbol outside its namespace.
  add_custom_command(
    OUTPUT ${target}.checked
    COMMAND ${CMAKE_COMMAND} "-DNM=${CMAKE_NM}" "-DOBJECTS=$<TARGET_OBJECTS:${target}>" -DISA=${isa}
            -DSTAMP=${target}.checked -P "${CMAKE_CURRENT_LIST_DIR}/check_symbols.cmake"
    DEPENDS ${target} $<TARGET_OBJECTS:${target}> VERBATIM)
  add_custom_target(${target}_symbols DEPENDS ${target}.checked)
  add_dependencies(_C ${target}_symbols)
  target_link_libraries(_C PRIVATE ${target})
endforeach()

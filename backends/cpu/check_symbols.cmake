# cmake -DNM=... -DOBJECTS=a.o;b.o -DISA=avx2 -DSTAMP=file -P check_symbols.cmake
# Fails when an object defines a linkable symbol outside v4npu::cpu::<isa>: see kernels.cmake.
string(LENGTH "${ISA}" length)
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND "${NM}" --defined-only --extern-only "${object}" OUTPUT_VARIABLE symbols
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  foreach(symbol IN LISTS symbols)
    # Z and GVZ: what is local to a function, such as a lambda that clang does not inline.
    if(NOT symbol MATCHES " _?_Z(GV)?Z*NK?5v4npu3cpu${length}${ISA}")
      message(FATAL_ERROR "${object} defines a symbol outside v4npu::cpu::${ISA}, compiled for ${ISA}: ${symbol}")
    endif()
  endforeach()
endforeach()
file(TOUCH "${STAMP}")

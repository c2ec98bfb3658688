# The kernels' files are data beside the extension, made by nvcc on request; the extension itself needs nothing of CUDA.
option(V4NPU_CUDA "Compile the CUDA kernels and install them beside the extension; needs nvcc" OFF)
if(V4NPU_CUDA)
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/cuda")
  add_custom_target(v4npu_cuda_kernels ALL
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/build.py" --out "${folder}" VERBATIM)
  install(DIRECTORY "${folder}" DESTINATION v4npu FILES_MATCHING PATTERN "*.fatbin")
endif()

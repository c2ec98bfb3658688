// fp8_linear on CUDA (sm_80 and later), on tensor cores (gemm.cuh). e4m3 becomes bf16 in registers, exactly; scales
// multiply the sum of each 128 columns.
// Limits: 240 registers, 0 bytes of stack, 8704 bytes of shared memory.
#include "v4npu/ops/fp8_linear.h"

#include "../device/gemm.cuh"

V4NPU_KERNEL_BY_TWO(fp8_linear_fp8_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat8, v4npu::cuda::Format::kFloat8, true>(p);
}
V4NPU_KERNEL(fp8_linear_fp8_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat8, v4npu::cuda::Format::kFloat8, false>(p);
}
V4NPU_KERNEL_BY_TWO(fp8_linear_bf16_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kFloat8, true>(p);
}
V4NPU_KERNEL(fp8_linear_bf16_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kFloat8, false>(p);
}
V4NPU_KERNEL(fp8_linear_fp32_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kFloat8, true>(p);
}
V4NPU_KERNEL(fp8_linear_fp32_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kFloat8, false>(p);
}

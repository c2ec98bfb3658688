// grouped_linear on CUDA (sm_80 and later), on tensor cores (gemm.cuh); a block has one group. float32 weights have the
// split layout alone.
// Limits: 240 registers, 0 bytes of stack, 8704 bytes of shared memory.
#include "v4npu/ops/grouped_linear.h"

#include "../device/gemm.cuh"

V4NPU_KERNEL_BY_TWO(grouped_linear_bf16_bf16_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kBfloat16, true>(p);
}
V4NPU_KERNEL(grouped_linear_bf16_bf16_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kBfloat16, false>(p);
}
V4NPU_KERNEL_BY_TWO(grouped_linear_bf16_fp8_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kFloat8, true>(p);
}
V4NPU_KERNEL(grouped_linear_bf16_fp8_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kFloat8, false>(p);
}
V4NPU_KERNEL(grouped_linear_fp32_fp8_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kFloat8, true>(p);
}
V4NPU_KERNEL(grouped_linear_fp32_fp8_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kFloat8, false>(p);
}
V4NPU_KERNEL(grouped_linear_fp32_bf16_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kBfloat16, true>(p);
}
V4NPU_KERNEL(grouped_linear_fp32_bf16_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kBfloat16, false>(p);
}
V4NPU_KERNEL(grouped_linear_fp32_fp32_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kFloat32, true>(p);
}

// linear on CUDA (sm_80 and later), bf16 weights on tensor cores (gemm.cuh); float32 weights by products.cuh.
// Limits: 240 registers, 0 bytes of stack, 8704 bytes of shared memory.
#include "v4npu/ops/linear.h"

#include "../device/gemm.cuh"
#include "../device/products.cuh"

V4NPU_KERNEL_BY_TWO(linear_bf16_bf16_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kBfloat16, true>(p);
}
V4NPU_KERNEL(linear_bf16_bf16_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kBfloat16, v4npu::cuda::Format::kBfloat16, false>(p);
}
V4NPU_KERNEL(linear_fp32_bf16_split, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kBfloat16, true>(p);
}
V4NPU_KERNEL(linear_fp32_bf16_wide, v4npu::cuda::kGemmThreads, v4npu::cuda::Gemm) {
  v4npu::cuda::gemm<v4npu::cuda::Format::kFloat32, v4npu::cuda::Format::kBfloat16, false>(p);
}
V4NPU_KERNEL(linear_bf16_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<v4npu::cuda::bf16, float>(p);
}
V4NPU_KERNEL(linear_fp32_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Products) {
  v4npu::cuda::products<float, float>(p);
}

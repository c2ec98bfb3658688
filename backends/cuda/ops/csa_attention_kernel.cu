// csa_attention on CUDA (sm_80 and later), bfloat16 and float32: window and picked entries; device/attention.cuh.
// Limits: 200 registers, 32 bytes of stack, 2048 bytes of shared memory.
#include "v4npu/ops/csa_attention.h"

#include "../device/attention.cuh"

V4NPU_KERNEL(csa_attention_fp32, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) { v4npu::cuda::attend_float(p); }
V4NPU_KERNEL(csa_attention_plain, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) {
  v4npu::cuda::attend<false, false>(p);
}
V4NPU_KERNEL(csa_attention_plain_official, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) {
  v4npu::cuda::attend<false, true>(p);
}
V4NPU_KERNEL(csa_attention_packed, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) {
  v4npu::cuda::attend<true, false>(p);
}
V4NPU_KERNEL(csa_attention_packed_official, v4npu::cuda::kRowThreads, v4npu::cuda::Attention) {
  v4npu::cuda::attend<true, true>(p);
}
V4NPU_KERNEL(csa_attention_combine, v4npu::cuda::kWarp, v4npu::cuda::Attention) { v4npu::cuda::combine(p); }

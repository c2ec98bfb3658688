// csa_attention on CUDA (sm_80 and later), bfloat16 and float32: window and picked entries; device/attention.cuh.
// Limits: 200 registers, 32 bytes of stack, 2048 bytes of shared memory.
#include "v4npu/ops/csa_attention.h"

#include "../device/attention.cuh"

V4NPU_ATTENTION(csa_attention)

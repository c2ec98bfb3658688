// hca_attention on CUDA (sm_80 and later), bfloat16 and float32: window and all complete entries, no list of
// indices; device/attention.cuh.
// Limits: 200 registers, 32 bytes of stack, 2048 bytes of shared memory.
#include "v4npu/ops/hca_attention.h"

#include "../device/attention.cuh"

V4NPU_ATTENTION(hca_attention)

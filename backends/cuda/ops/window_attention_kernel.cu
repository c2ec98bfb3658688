// window_attention on CUDA (sm_80 and later), bfloat16 and float32: the last `window` tokens; device/attention.cuh.
// Limits: 200 registers, 32 bytes of stack, 2048 bytes of shared memory.
#include "v4npu/ops/window_attention.h"

#include "../device/attention.cuh"

V4NPU_ATTENTION(window_attention)

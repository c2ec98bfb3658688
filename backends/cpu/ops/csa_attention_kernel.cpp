// csa_attention on the CPU: paged/attention.h.
#include "v4npu/ops/csa_attention.h"

#include "paged/attention.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

void csa_attention(const CsaAttentionParams& p) {
  Attention a = with_entries(p);
  a.topk_indices = p.topk_indices;
  a.topk = p.topk;
  run(a, p.dtype);
}

}  // namespace v4npu::cpu::V4NPU_ISA

// hca_attention on the CPU: paged/attention.h.
#include "v4npu/ops/hca_attention.h"

#include "paged/attention.h"
#include "simd.h"

namespace v4npu::cpu::V4NPU_ISA {

void hca_attention(const HcaAttentionParams& p) {
  Attention a = with_entries(p);
  a.ratio = p.ratio;
  run(a, p.dtype);
}

}  // namespace v4npu::cpu::V4NPU_ISA

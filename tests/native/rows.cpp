// The kernels that take one row after the other, on odd widths.
#include "driver.h"
#include "v4npu/ops/act_quant.h"
#include "v4npu/ops/fp4_act_quant.h"
#include "v4npu/ops/gate.h"
#include "v4npu/ops/hadamard.h"
#include "v4npu/ops/hash_gate.h"
#include "v4npu/ops/hc_head.h"
#include "v4npu/ops/hc_post.h"
#include "v4npu/ops/hc_pre.h"
#include "v4npu/ops/indexer_query.h"
#include "v4npu/ops/rms_norm.h"
#include "v4npu/ops/rope.h"
#include "v4npu/ops/swiglu.h"

namespace v4npu::cpu {
namespace V4NPU_ISA {
void act_quant(const ActQuantParams&);
void fp4_act_quant(const Fp4ActQuantParams&);
void gate(const GateParams&);
void hadamard(const HadamardParams&);
void hash_gate(const HashGateParams&);
void hc_head(const HcHeadParams&);
void hc_post(const HcPostParams&);
void hc_pre(const HcPreParams&);
void indexer_query(const IndexerQueryParams&);
void rms_norm(const RmsNormParams&);
void rope(const RopeParams&);
void swiglu(const SwigluParams&);
}  // namespace V4NPU_ISA

namespace kernels = V4NPU_ISA;

namespace test {
namespace {

#define V4NPU_RUN(op, Params, ...)                        \
  do {                                                    \
    Case c(#op, dtype);                                   \
    c.run([p = Params{__VA_ARGS__}] { kernels::op(p); }); \
  } while (false)

// clang-format off
void rows_of(int64_t t, int64_t n, Dtype dtype) {
  const int64_t m = n % 2 == 0 ? 4 : 3, mixes = (2 + m) * m, experts = 13, topk = 3, vocab = 40, turned = n / 2 * 2;
  V4NPU_RUN(rms_norm, RmsNormParams, c.values(t * n), c.values(n), c.out_values(t * n), t, n, 1e-6f, dtype, dtype);
  V4NPU_RUN(rope, RopeParams, c.values(t * 3 * n), c.integers(t, 1 << 20), c.floats(turned / 2),
            c.out_values(t * 3 * n), t, 3, n, turned, false, dtype);
  V4NPU_RUN(swiglu, SwigluParams, c.values(t * n), c.values(t * n), c.floats(t), c.out_values(t * n), t, n, 1.0f, dtype);
  for (const int64_t block : {1, 5, 16, 32, 50}) {
    const int64_t scales = t * ((n + block - 1) / block);
    V4NPU_RUN(act_quant, ActQuantParams, c.values(t * n), c.out<uint8_t>(t * n), c.out<uint8_t>(scales), t, n, block,
              dtype);
    if (n % 2 == 0)
      V4NPU_RUN(fp4_act_quant, Fp4ActQuantParams, c.values(t * n), c.out<uint8_t>(t * n / 2), c.out<uint8_t>(scales),
                t, n, block, dtype);
  }
  if ((n & (n - 1)) == 0) {
    V4NPU_RUN(hadamard, HadamardParams, c.values(t * n), c.out_values(t * n), t, n, dtype);
    for (const bool official : {true, false})
      V4NPU_RUN(indexer_query, IndexerQueryParams, c.values(t * 3 * n), c.integers(t, 1 << 20), c.floats(turned / 2),
                c.out_values(t * 3 * n), t, 3, n, turned, official, dtype);
  }
  V4NPU_RUN(hc_pre, HcPreParams, c.values(t * m * n), c.floats(mixes * m * n), c.floats(3), c.floats(mixes),
            c.out_values(t * n), c.out<float>(t * m * 4), c.out<float>(t * m * m * 4), c.scratch(t * mixes), t, m, n,
            1e-6f, 1e-6f, 20, dtype);
  V4NPU_RUN(hc_head, HcHeadParams, c.values(t * m * n), c.floats(m * m * n), c.floats(1), c.floats(m),
            c.out_values(t * n), c.scratch(t * m), t, m, n, 1e-6f, 1e-6f, dtype);
  V4NPU_RUN(hc_post, HcPostParams, c.values(t * n), c.values(t * m * n), c.floats(t * m), c.floats(t * m * m),
            c.out_values(t * m * n), t, m, n, dtype);
  V4NPU_RUN(gate, GateParams, c.values(t * n), c.values(experts * n), c.floats(experts), c.out<int32_t>(t * topk * 4),
            c.out<float>(t * topk * 4), c.scratch(t * experts), t, n, experts, topk, 1.5f, dtype, dtype);
  V4NPU_RUN(hash_gate, HashGateParams, c.values(t * n), c.values(experts * n), c.integers(vocab * topk, experts),
            c.integers(t, vocab), c.out<int32_t>(t * topk * 4), c.out<float>(t * topk * 4), t, n, experts, vocab, topk,
            1.5f, dtype, dtype);
}
// clang-format on

}  // namespace

void rows(Dtype dtype) {
  for (const int64_t t : {0, 1, 2, 5, 19}) {
    for (const int64_t n : {1, 2, 3, 15, 16, 17, 33, 70, 128, 1030}) rows_of(t, n, dtype);
  }
}

}  // namespace test
}  // namespace v4npu::cpu

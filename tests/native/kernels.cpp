// Runs CPU kernels of one instruction set on odd sizes, for kernels.sh: every buffer is exactly as large as its
// contract says, and on the heap. Each kernel runs on one thread and on three, and must write the same bits. Prints a
// digest of what each has written. No Python, no torch: parallel_for is here.
#include "parallel.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "v4npu/formats.h"
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

static int threads = 1;

int num_threads() { return threads; }

// Ignores the grain, so that small sizes are divided too.
void parallel_for(int64_t n, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  std::vector<std::thread> team;
  for (int64_t i = 0; i < threads; ++i) {
    const int64_t begin = n * i / threads, end = n * (i + 1) / threads;
    if (begin < end) team.emplace_back(body, begin, end, context);
  }
  for (std::thread& thread : team) thread.join();
}

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
}  // namespace v4npu::cpu

namespace kernels = v4npu::cpu::V4NPU_ISA;
using v4npu::Dtype;

namespace {

bool failed = false;
std::map<std::string, uint64_t> digests;

class Case {
 public:
  Case(const char* name, Dtype dtype) : name_(name), dtype_(dtype) {}

  // n values of the activations' dtype, or of float32.
  const void* values(int64_t n) { return dtype_ == Dtype::kFloat32 ? floats(n) : halves(n); }
  const float* floats(int64_t n) {
    auto* p = static_cast<float*>(bytes(n * 4));
    for (int64_t i = 0; i < n; ++i) p[i] = value();
    return p;
  }
  const int64_t* integers(int64_t n, int64_t bound) {
    auto* p = static_cast<int64_t*>(bytes(n * 8));
    for (int64_t i = 0; i < n; ++i) p[i] = static_cast<int64_t>(random_()) % bound;
    return p;
  }
  // What the kernel writes; `scratch` is not compared.
  template <class T = void>
  T* out(int64_t size) {
    outputs_.emplace_back(bytes(size), static_cast<size_t>(size));
    return static_cast<T*>(outputs_.back().first);
  }
  void* out_values(int64_t n) { return out(n * (dtype_ == Dtype::kFloat32 ? 4 : 2)); }
  float* scratch(int64_t n) { return static_cast<float*>(bytes(n * 4)); }

  void run(const std::function<void()>& kernel) {
    std::vector<std::vector<unsigned char>> first;
    for (const int count : {1, 3}) {
      v4npu::cpu::threads = count;
      for (auto& [p, size] : outputs_) std::memset(p, 0xa5, size);
      kernel();
      for (size_t i = 0; i < outputs_.size(); ++i) {
        const auto* p = static_cast<const unsigned char*>(outputs_[i].first);
        if (count == 1) {
          first.emplace_back(p, p + outputs_[i].second);
          uint64_t& digest = digests[name_];
          for (const unsigned char byte : first.back()) digest = (digest ^ byte) * 0x100000001b3;  // FNV-1a
        } else if (outputs_[i].second > 0 && std::memcmp(p, first[i].data(), outputs_[i].second) != 0) {
          std::printf("%s: output %zu depends on the number of threads\n", name_, i);
          failed = true;
        }
      }
    }
  }

 private:
  void* bytes(int64_t size) {
    memory_.emplace_back(std::malloc(static_cast<size_t>(size)), &std::free);
    return memory_.back().get();
  }
  // Of unit variance, and the same on every machine, as a library's distributions are not.
  float value() {
    float sum = -2.0f;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(random_() >> 8) * 0x1p-24f;
    return sum * 1.7320508f;
  }
  const void* halves(int64_t n) {
    auto* p = static_cast<uint16_t*>(bytes(n * 2));
    for (int64_t i = 0; i < n; ++i) p[i] = v4npu::bf16_encode(value());
    return p;
  }

  const char* name_;
  Dtype dtype_;
  std::mt19937 random_{1};
  std::vector<std::unique_ptr<void, void (*)(void*)>> memory_;
  std::vector<std::pair<void*, size_t>> outputs_;
};

#define V4NPU_RUN(op, Params, ...)                               \
  do {                                                           \
    Case c(#op, dtype);                                          \
    c.run([p = v4npu::Params{__VA_ARGS__}] { kernels::op(p); }); \
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

int main() {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    for (const int64_t t : {0, 1, 2, 5, 19})
      for (const int64_t n : {1, 2, 3, 15, 16, 17, 33, 70, 128, 1030}) rows_of(t, n, dtype);
  }
  for (const auto& [name, digest] : digests)
    std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(digest));
  return failed ? 1 : 0;
}

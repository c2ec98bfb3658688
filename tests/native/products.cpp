// The products with weights of every format, and the experts.
#include "driver.h"
#include "gemm_workspace.h"
#include "v4npu/ops/fp4_linear.h"
#include "v4npu/ops/fp8_linear.h"
#include "v4npu/ops/grouped_linear.h"
#include "v4npu/ops/linear.h"
#include "v4npu/ops/moe_experts.h"

namespace v4npu::cpu {
namespace V4NPU_ISA {
void fp4_linear(const Fp4LinearParams&);
void fp8_linear(const Fp8LinearParams&);
void grouped_linear(const GroupedLinearParams&);
void linear(const LinearParams&);
void moe_experts(const MoeExpertsParams&);
}  // namespace V4NPU_ISA

namespace kernels = V4NPU_ISA;

namespace test {
namespace {

int64_t blocks(int64_t n, int64_t width) { return (n + width - 1) / width; }

template <class Params>
void reserve(Case& c, Params& p, int64_t size) {
  p.workspace = c.bytes(size);
  p.num_workers = kThreads;
  p.block_tokens[0] = p.block_tokens[1] = 32;
}

// out = x W^T of t tokens, n rows and k columns, in every pair of dtypes that a launcher lets through.
void linear_of(int64_t t, int64_t n, int64_t k, Dtype dtype) {
  for (const Dtype weight_dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    Case c("linear", dtype);
    LinearParams p{};
    p.x = c.values(t * k);
    p.weight = weight_dtype == Dtype::kFloat32 ? static_cast<const void*>(c.floats(n * k)) : c.halves(n * k);
    p.out = c.out_values(t * n);
    p.num_tokens = t, p.num_rows = n, p.k = k;
    p.x_dtype = p.out_dtype = dtype, p.weight_dtype = weight_dtype;
    reserve(c, p, gemm_workspace(t, k, kThreads));
    c.run([&] { kernels::linear(p); });
    if (t < 2) continue;
    // The last token alone, whatever block it was in.
    const int64_t size = dtype == Dtype::kFloat32 ? 4 : 2;
    const char* whole = static_cast<const char*>(p.out) + (t - 1) * n * size;
    p.x = static_cast<const char*>(p.x) + (t - 1) * k * size;
    p.out = c.bytes(n * size);
    p.num_tokens = 1;
    kernels::linear(p);
    if (std::memcmp(whole, p.out, static_cast<size_t>(n * size)) != 0) {
      std::printf("linear: a token's bits depend on the others\n");
      failed = true;
    }
  }
}

// fp8_linear and fp4_linear, of plain and of quantised activations.
template <class Params>
void quantised(const char* name, void (*kernel)(const Params&), int64_t t, int64_t n, int64_t k, int64_t codes,
               int64_t scales, Dtype dtype) {
  for (const bool plain : {true, false}) {
    Case c(name, dtype);
    Params p{};
    p.x = plain ? c.values(t * k) : c.e4m3(t * k);
    if (!plain) p.x_scale = c.scales(t * blocks(k, 128));
    p.weight = codes == n * k ? c.e4m3(codes) : c.e2m1(codes);
    p.weight_scale = c.scales(scales);
    p.out = c.out_values(t * n);
    p.num_tokens = t, p.num_rows = n, p.k = k;
    p.x_dtype = p.out_dtype = dtype;
    reserve(c, p, gemm_workspace(t, k, kThreads));
    c.run([&] { kernel(p); });
  }
}

void grouped_of(int64_t t, int64_t groups, int64_t rows, int64_t k, Dtype dtype) {
  using Format = GroupedLinearParams::Format;
  for (const bool packed : {true, false}) {
    Case c("grouped_linear", dtype);
    GroupedLinearParams p{};
    p.x = c.values(t * groups * k);
    p.weight = packed ? c.e4m3(groups * rows * k) : c.values(groups * rows * k);
    if (packed) p.weight_scale = c.scales(blocks(groups * rows, 128) * blocks(k, 128));
    p.out = c.out_values(t * groups * rows);
    p.num_tokens = t, p.num_groups = groups, p.rows_per_group = rows, p.k = k;
    p.dtype = dtype;
    p.format = packed ? Format::kFp8 : dtype == Dtype::kFloat32 ? Format::kFloat32 : Format::kBfloat16;
    reserve(c, p, gemm_workspace(t, k, kThreads, groups_together(t, groups)));
    c.run([&] { kernels::grouped_linear(p); });
  }
}

// The first expert is nobody's choice.
void experts_of(int64_t t, int64_t d, int64_t width, int64_t experts, int64_t topk, Dtype dtype) {
  using Format = MoeExpertsParams::Format;
  for (const Format format : {Format::kPlain, Format::kFp8, Format::kFp4}) {
    Case c("moe_experts", dtype);
    const auto weight = [&](int64_t rows, int64_t k, const void*& values, const uint8_t*& scale) {
      if (format == Format::kPlain) {
        values = c.values(experts * rows * k);
      } else if (format == Format::kFp8) {
        values = c.e4m3(experts * rows * k), scale = c.scales(experts * blocks(rows, 128) * blocks(k, 128));
      } else {
        values = c.e2m1(experts * rows * k / 2), scale = c.scales(experts * rows * k / 32);
      }
    };
    MoeExpertsParams p{};
    p.x = c.values(t * d);
    auto* indices = c.integers<int32_t>(t * topk, experts - 1);
    for (int64_t i = 0; i < t * topk; ++i) ++indices[i];
    p.topk_indices = indices;
    p.topk_weights = c.floats(t * topk);
    weight(width, d, p.w1, p.w1_scale);
    weight(width, d, p.w3, p.w3_scale);
    weight(d, width, p.w2, p.w2_scale);
    if (t % 2 == 0) p.shared = c.values(t * d);
    p.out = p.shared != nullptr ? c.out_values(t * d) : c.out<float>(t * d * 4);
    p.num_tokens = t, p.hidden_size = d, p.intermediate_size = width, p.num_experts = experts, p.topk = topk;
    p.rows_apart[0] = width, p.rows_apart[1] = d;
    p.swiglu_limit = 1.0f;
    p.format = format;
    p.official = t % 2 == 1;
    p.dtype = p.weight_dtype = dtype;
    p.num_workers = kThreads;
    reserve(c, p, MoeWorkspace(p).size);
    c.run([&] { kernels::moe_experts(p); });
  }
}

}  // namespace

void products(Dtype dtype) {
  for (const int64_t t : {0, 1, 7, 33}) {
    for (const int64_t n : {1, 35}) {
      for (const int64_t k : {1, 31, 200}) {
        linear_of(t, n, k, dtype);
        quantised("fp8_linear", &kernels::fp8_linear, t, n, k, n * k, blocks(n, 128) * blocks(k, 128), dtype);
      }
      quantised("fp4_linear", &kernels::fp4_linear, t, n, 160, n * 160 / 2, n * 160 / 32, dtype);
    }
    for (const int64_t k : {33, 260}) grouped_of(t, 3, 45, k, dtype);
    experts_of(t, 160, 96, 9, 3, dtype);
    experts_of(t, 64, 160, 40, 2, dtype);
  }
  // More rows than an FP8 scale has, more columns than are summed at once.
  linear_of(3, 130, 1060, dtype);
  quantised("fp8_linear", &kernels::fp8_linear, 3, 130, 1060, 130 * 1060, 2 * 9, dtype);
  quantised("fp4_linear", &kernels::fp4_linear, 3, 130, 1056, 130 * 1056 / 2, 130 * 1056 / 32, dtype);
  for (const int64_t t : {1, 2, 3, 4, 5}) {  // few tokens by rows of whole cache lines
    linear_of(t, 67, 192, dtype);
    quantised("fp8_linear", &kernels::fp8_linear, t, 67, 192, 67 * 192, 2, dtype);
    quantised("fp4_linear", &kernels::fp4_linear, t, 67, 256, 67 * 128, 67 * 8, dtype);
  }
  linear_of(35, 33, 40, dtype);                          // a second block of tokens
  linear_of(20, 301, 524, dtype);                        // and a second piece of rows and of columns
  experts_of(kGroupPairs / 6 + 5, 32, 32, 5, 6, dtype);  // and a second group of pairs
}

}  // namespace test
}  // namespace v4npu::cpu

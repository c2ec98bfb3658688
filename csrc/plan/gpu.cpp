#include "plan/gpu.h"

#include "v4npu/arithmetic.h"

namespace v4npu {

int cuda_architecture(const DeviceCaps& caps) {
  const std::string prefix = "sm_";
  if (caps.name.rfind(prefix, 0) != 0) return 0;
  int number = 0;
  for (size_t i = prefix.size(); i < caps.name.size() && caps.name[i] >= '0' && caps.name[i] <= '9'; ++i)
    number = number * 10 + (caps.name[i] - '0');
  return number;
}

std::string refuses_cuda(const DeviceCaps& caps) {
  if (!caps.has(kCudaKernels)) return "the kernels' files are not beside the extension (make cuda builds them)";
  const int architecture = cuda_architecture(caps);
  if (architecture == 0) return "the device's architecture is not known";
  // What the files hold: sm_80 runs on 8.x, sm_90a on 9.0, sm_100 on 10.x (backends/cuda/build.py).
  if (architecture < 80) return "needs sm_80 or later, not " + caps.name;
  if (architecture / 10 != 8 && architecture != 90 && architecture / 10 != 10)
    return "built for sm_80, sm_90a and sm_100, not " + caps.name;
  return "";
}

// Wide blocks read weights once for 32 tokens and keep their sums to themselves, but only many of them fill a device.
GpuGemmPlan plan_gpu_gemm(int64_t num_tokens, int64_t num_rows, int64_t groups, bool may_be_wide,
                          const DeviceCaps& caps) {
  const GpuGemmPlan wide{true, ceil_div(num_rows, 256), ceil_div(num_tokens, 32)};
  if (may_be_wide && wide.row_tiles * wide.token_tiles * groups >= caps.num_cores) return wide;
  return {false, ceil_div(num_rows, 16), ceil_div(num_tokens, 16)};
}

int64_t plan_gpu_blocks(int64_t blocks, const DeviceCaps& caps) { return blocks > caps.num_cores ? 2 : 1; }

int plan_gpu_stages(int64_t stage_bytes, int64_t weight_bytes, int64_t other_bytes, int64_t blocks,
                    const DeviceCaps& caps) {
  constexpr int64_t kOfSystem = 1024;  // bytes that the system takes for each block
  constexpr int64_t kOnTheirWay = 43'000;
  const int64_t needed = 1 + ceil_div(kOnTheirWay, blocks * weight_bytes);
  const int64_t most = needed < 4 ? 4 : needed > 8 ? 8 : needed;
  const int64_t room = (caps.shared_bytes + kOfSystem) / blocks - kOfSystem - other_bytes;
  const int64_t stages = room / stage_bytes;
  return static_cast<int>(stages < 2 ? 2 : stages > most ? most : stages);
}

const char* name_of(ExpertLayout layout) {
  switch (layout) {
    case ExpertLayout::kNarrow: return "narrow";
    case ExpertLayout::kWide: return "wide";
    default: return "split";
  }
}

GpuExpertPlan plan_gpu_experts(int64_t num_assignments, int64_t num_experts, int64_t width, bool float32,
                               bool quantises, const DeviceCaps& caps) {
  GpuExpertPlan plan;
  const int64_t experts = num_assignments < num_experts ? num_assignments : num_experts;
  // Wide where an expert has a whole wide tile on average, and there are enough of those. Narrow, which there is only
  // with quantisation, where blocks of 128 rows are at least two for each multiprocessor if the assignments go to as
  // many experts as they can.
  if (float32) {
    plan.layout = ExpertLayout::kSplit;
  } else if (num_assignments >= 32 * num_experts && num_assignments / 32 >= caps.num_cores / 8) {
    plan.layout = ExpertLayout::kWide;
  } else if (quantises && experts * ceil_div(width, 128) >= 2 * caps.num_cores) {
    plan.layout = ExpertLayout::kNarrow;
  }
  const bool split = plan.layout == ExpertLayout::kSplit;
  plan.clusters = split && quantises && !float32 && cuda_architecture(caps) >= 90;
  plan.tile_tokens = plan.layout == ExpertLayout::kWide ? 32 : 16;
  plan.max_tiles = experts + num_assignments / plan.tile_tokens;  // each expert's last tile may be short
  return plan;
}

GpuIndexPlan plan_gpu_index(int64_t num_tokens, int64_t num_seqs, int64_t head_dim, const DeviceCaps& caps) {
  constexpr int64_t kMostColumns = 256;  // of a key in shared memory
  return {num_seqs > 0 && num_tokens >= 8 * num_seqs && head_dim <= kMostColumns, 256, int64_t{128} * caps.num_cores};
}

GpuTopkPlan plan_gpu_topk(int64_t num_tokens, int64_t num_keys, const DeviceCaps& caps) {
  const int64_t blocks = num_tokens > 0 ? caps.num_cores / num_tokens : 1, most = num_keys / 2048;
  const int64_t parts = blocks < most ? blocks : most, whole = parts / 8 * 8;
  if (cuda_architecture(caps) >= 90 && whole > 0 && 4 * whole >= 3 * parts) return {whole, true};
  return {parts > 1 ? parts : 1, false};
}

int64_t plan_gpu_attention_parts(int64_t num_tokens, int64_t head_tiles, int64_t segments, const DeviceCaps& caps) {
  const int64_t blocks = num_tokens * head_tiles, most = blocks > 0 ? caps.num_cores / blocks : 1;
  const int64_t parts = segments < most ? segments : most;
  return parts > 1 ? parts : 1;
}

int plan_gpu_staged_rows(int64_t row_bytes, int64_t other_bytes, int64_t most, const DeviceCaps& caps) {
  const int64_t room = caps.shared_bytes - other_bytes, rows = row_bytes > 0 && room > 0 ? room / row_bytes : 0;
  return static_cast<int>(rows < most ? rows : most);
}

}  // namespace v4npu

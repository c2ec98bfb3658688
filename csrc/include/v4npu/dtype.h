// The dtype that a Params calls T, where more than one is possible.
#pragma once

namespace v4npu {

enum class Dtype { kFloat32, kBfloat16, kFloat16, kFloat64 };

}  // namespace v4npu

// The dtype that a Params calls T, where more than one is possible, and the format of index keys.
#pragma once

namespace v4npu {

enum class Dtype { kFloat32, kBfloat16 };

// Rows of index keys: of T, or fp4_key or fp8_key of row_format.h.
enum class KeyFormat { kPlain, kFp4, kFp8 };

}  // namespace v4npu

// The operators of v4npu; schema.cpp declares them to torch.
#pragma once

#include <vector>

namespace v4npu {

// Schema text of every operator, without the namespace.
const std::vector<const char*>& schemas();

}  // namespace v4npu

// SetFlag, WaitFlag, PipeBarrier, and what a kernel asks of its place in the launch.
#pragma once

#include "core.h"
#include "types.h"

namespace v4npu::emulation {

inline void set_core_type(bool cube) { Core::current().set_type(cube ? CoreType::Cube : CoreType::Vector); }

}  // namespace v4npu::emulation

namespace AscendC {

template <HardEvent event>
void SetFlag(int32_t eventID, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  const auto& pipes = v4npu::emulation::pipes_of(event);
  v4npu::emulation::Core::current().set_flag(static_cast<int>(event), pipes.name, pipes.from, eventID, at);
}

template <HardEvent event>
void WaitFlag(int32_t eventID, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  const auto& pipes = v4npu::emulation::pipes_of(event);
  v4npu::emulation::Core::current().wait_flag(static_cast<int>(event), pipes.name, pipes.to, eventID, at);
}

template <pipe_t pipe>
void PipeBarrier(const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  static_assert(pipe != PIPE_S, "the hardware orders scalar instructions; PIPE_S is refused");
  auto& core = v4npu::emulation::Core::current();
  if constexpr (pipe == PIPE_ALL) {
    core.barrier_all(at);
  } else {
    core.barrier(v4npu::emulation::pipe_of(pipe), at);
  }
}

inline int64_t GetBlockIdx() { return v4npu::emulation::Core::current().block(); }
inline int64_t GetBlockNum() { return v4npu::emulation::Core::current().launch().num_blocks; }
inline int64_t GetSubBlockIdx() { return 0; }  // a vector-only kernel has one vector core a block
inline int64_t GetSubBlockNum() { return 1; }

}  // namespace AscendC

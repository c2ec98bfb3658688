// SetFlag, WaitFlag, PipeBarrier, and what a kernel asks of its place in the launch.
#pragma once

#include "core.h"
#include "types.h"

namespace v4npu::emulation {

inline bool runs_on_cube() { return Core::current().is_cube(); }

template <uint8_t mode, pipe_t pipe>
constexpr void check_cross_call() {
  static_assert(mode <= 2 || (mode == 4 && kIs3510), "modes are 0, 1, 2, and on 3510 also 4");
  static_assert(pipe != PIPE_ALL && (pipe != PIPE_S || mode == 4), "PIPE_ALL is no pipe, PIPE_S one of mode 4 only");
}

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

// Between cores (cross_flags.h has the modes). On 2201 the mode and pipe of a wait mean nothing: all pipes wait.
template <uint8_t modeId, pipe_t pipe>
void CrossCoreSetFlag(uint16_t flagId, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  v4npu::emulation::check_cross_call<modeId, pipe>();
  v4npu::emulation::Core::current().set_cross(modeId, v4npu::emulation::pipe_of(pipe), flagId, at);
}

template <uint8_t modeId = 0, pipe_t pipe = PIPE_S>
void CrossCoreWaitFlag(uint16_t flagId, const v4npu::emulation::Where& at = v4npu::emulation::Where::current()) {
  v4npu::emulation::check_cross_call<modeId, pipe>();  // 3510 heeds both
  v4npu::emulation::Core::current().wait_cross(modeId, v4npu::emulation::pipe_of(pipe), flagId, at);
}

// Of a mixed kernel, the vector cores are numbered through all blocks.
inline int64_t GetBlockIdx() {
  const auto& core = v4npu::emulation::Core::current();
  return core.mixed() && !core.is_cube() ? 2 * core.block() + core.vector_index() : core.block();
}
inline int64_t GetBlockNum() { return v4npu::emulation::Core::current().launch().num_blocks; }
inline int64_t GetSubBlockIdx() { return v4npu::emulation::Core::current().vector_index(); }
inline int64_t GetSubBlockNum() { return v4npu::emulation::Core::current().mixed() ? 2 : 1; }

}  // namespace AscendC

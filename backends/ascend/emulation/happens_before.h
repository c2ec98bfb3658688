// Which instruction is known to be complete when another starts: vector clocks over the pipes of a core.
//
// The scalar unit hands instructions to the pipes in program order; each pipe starts its own in order, but nothing
// orders two pipes, and within a pipe an instruction may start before the previous one has written its result. An
// order exists only where a flag, a queue or a barrier makes one:
//   SetFlag<A_B>    the flag carries what A has issued so far and what A itself waited for
//   WaitFlag<A_B>   B takes that over
//   PipeBarrier<P>  P takes over all it has issued; PIPE_ALL: every pipe, from every pipe
// The emulator runs instructions in program order, so a result never depends on a race; the clocks tell that one
// exists. Scalar instructions are ordered among themselves: the hardware does that.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace v4npu::emulation {

enum class Pipe : uint8_t { S, V, M, MTE1, MTE2, MTE3, FIX };
constexpr int kPipes = 7;
constexpr const char* kPipeNames[kPipes] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};

constexpr int index(Pipe pipe) { return static_cast<int>(pipe); }
constexpr const char* name(Pipe pipe) { return kPipeNames[index(pipe)]; }

// Per pipe, how many of its instructions are known to be complete.
using Clock = std::array<uint64_t, kPipes>;

class PipeClocks {
 public:
  // Issues one instruction; its number on the pipe, from 1.
  uint64_t issue(Pipe pipe) { return ++issued_[index(pipe)]; }

  // Whether instruction `number` of `earlier` is complete when the instruction last issued to `pipe` starts.
  bool complete(Pipe earlier, uint64_t number, Pipe pipe) const {
    return (earlier == pipe && pipe == Pipe::S) || known_[index(pipe)][index(earlier)] >= number;
  }

  // What is complete once everything issued to `pipe` so far is.
  Clock after(Pipe pipe) const {
    Clock clock = known_[index(pipe)];
    clock[index(pipe)] = issued_[index(pipe)];
    return clock;
  }

  void join(Pipe pipe, const Clock& clock) {
    Clock& mine = known_[index(pipe)];
    for (int p = 0; p < kPipes; ++p) mine[p] = std::max(mine[p], clock[p]);
  }

  void join_all() {
    for (Clock& clock : known_) clock = issued_;
  }

 private:
  Clock issued_{};
  std::array<Clock, kPipes> known_{};
};

}  // namespace v4npu::emulation

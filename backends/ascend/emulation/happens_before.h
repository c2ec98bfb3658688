// Which instruction is known to be complete when another starts: vector clocks over the pipes of a block's cores.
//
// The scalar unit hands instructions to the pipes in program order; each pipe starts its own in order, but nothing
// orders two pipes, and within a pipe an instruction may start before the previous one has written its result. An
// order exists only where a flag, a queue or a barrier makes one:
//   SetFlag<A_B>    the flag carries what A has issued so far and what A itself waited for
//   WaitFlag<A_B>   B takes that over
//   PipeBarrier<P>  P takes over all it has issued; PIPE_ALL: every pipe, from every pipe
//   CrossCoreSetFlag, CrossCoreWaitFlag   the same between the cores of a block
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

// A block is one core, or a cube core and its two vector cores.
constexpr int kCores = 3;
constexpr const char* kCoreNames[kCores] = {"AIC", "AIV0", "AIV1"};

// A pipe of a core of a block.
struct Lane {
  int core;
  Pipe pipe;

  constexpr int index() const { return core * kPipes + static_cast<int>(pipe); }
  constexpr bool operator==(const Lane&) const = default;
};
constexpr int kLanes = kCores * kPipes;

// Per lane, how many of its instructions are known to be complete; and the modelled cycle by which they are.
struct Clock {
  std::array<uint64_t, kLanes> steps{};
  double cycle = 0;
};

inline void join_into(Clock& mine, const Clock& other) {
  for (int lane = 0; lane < kLanes; ++lane) mine.steps[lane] = std::max(mine.steps[lane], other.steps[lane]);
  mine.cycle = std::max(mine.cycle, other.cycle);
}

// The clocks of a block.
class PipeClocks {
 public:
  // Issues one instruction; its number on the lane, from 1.
  uint64_t issue(Lane lane) { return ++issued_[lane.index()]; }

  // Whether instruction `number` of `earlier` is complete when the instruction last issued to `lane` starts.
  bool complete(Lane earlier, uint64_t number, Lane lane) const {
    return (earlier == lane && lane.pipe == Pipe::S) || known_[lane.index()].steps[earlier.index()] >= number;
  }

  // What is complete once everything issued to `lane` so far is.
  Clock after(Lane lane) const {
    Clock clock = known_[lane.index()];
    clock.steps[lane.index()] = issued_[lane.index()];
    clock.cycle = std::max(clock.cycle, free_at_[lane.index()]);
    return clock;
  }

  // What is complete once everything issued to any pipe of `core` so far is.
  Clock after_all(int core) const {
    Clock clock{};
    for (int pipe = 0; pipe < kPipes; ++pipe) join_into(clock, after({core, static_cast<Pipe>(pipe)}));
    return clock;
  }

  // Lets the instruction last issued to `lane` take that many cycles; the cycle it starts in. It waits for the pipe,
  // for what its pipe waited for, and for the scalar unit, which issues it.
  double occupy(Lane lane, double cycles) {
    double& free = free_at_[lane.index()];
    const double start = std::max({free, known_[lane.index()].cycle, known_[Lane{lane.core, Pipe::S}.index()].cycle});
    free = start + cycles;
    return start;
  }
  double end() const { return *std::max_element(free_at_.begin(), free_at_.end()); }

  void join(Lane lane, const Clock& clock) { join_into(known_[lane.index()], clock); }

  void join_all(int core, const Clock& clock) {
    for (int pipe = 0; pipe < kPipes; ++pipe) join({core, static_cast<Pipe>(pipe)}, clock);
  }

 private:
  std::array<uint64_t, kLanes> issued_{};
  std::array<double, kLanes> free_at_{};
  std::array<Clock, kLanes> known_{};
};

}  // namespace v4npu::emulation

// Which instruction is known to be complete when another starts: vector clocks over the pipes of a block's cores.
//
// The scalar unit hands instructions to the pipes in program order; each pipe starts its own in order, but nothing
// orders two pipes, and within a pipe an instruction may start before the previous one has written its result. An
// order exists only where a flag, a queue or a barrier makes one:
//   SetFlag<A_B>    the flag carries what A has issued so far and what A itself waited for
//   WaitFlag<A_B>   B takes that over
//   PipeBarrier<P>  P takes over all it has issued; PIPE_ALL: every pipe, from every pipe
//   CrossCoreSetFlag, CrossCoreWaitFlag   the same between the cores of a block, and in mode 0 between blocks
// The emulator runs instructions in program order, so a result never depends on a race; the clocks tell that one
// exists. Scalar instructions are ordered among themselves: the hardware does that.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace v4npu::emulation {

enum class Pipe : uint8_t { S, V, M, MTE1, MTE2, MTE3, FIX };
constexpr int kPipes = 7;
constexpr const char* kPipeNames[kPipes] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};

constexpr int index(Pipe pipe) { return static_cast<int>(pipe); }
constexpr const char* name(Pipe pipe) { return kPipeNames[index(pipe)]; }

// A block is one core, or a cube core and its two vector cores.
constexpr int kCores = 3;
constexpr int kCubeCore = 0;
constexpr const char* kCoreNames[kCores] = {"AIC", "AIV0", "AIV1"};

// A pipe of a core of a block.
struct Lane {
  int core;
  Pipe pipe;

  constexpr int index() const { return core * kPipes + static_cast<int>(pipe); }
  constexpr bool operator==(const Lane&) const = default;
};
constexpr int kLanes = kCores * kPipes;

// Per lane, how many of its instructions are known to be complete.
using Steps = std::array<uint64_t, kLanes>;
inline void join_into(Steps& mine, const Steps& other) {
  for (int lane = 0; lane < kLanes; ++lane) mine[lane] = std::max(mine[lane], other[lane]);
}

// What is known of a block's lanes, and since blocks last met, of other blocks' (null before that; only meetings change
// it, so clocks share it); and the modelled cycle by which all that is complete.
struct Clock {
  Steps steps{};
  double cycle = 0;
  std::shared_ptr<const std::vector<Steps>> blocks;
};

inline void join_into(Clock& mine, const Clock& other) {
  join_into(mine.steps, other.steps);
  mine.cycle = std::max(mine.cycle, other.cycle);
  if (other.blocks == nullptr || other.blocks == mine.blocks) return;
  if (mine.blocks == nullptr) {
    mine.blocks = other.blocks;
    return;
  }
  auto both = std::make_shared<std::vector<Steps>>(*mine.blocks);
  for (size_t block = 0; block < both->size(); ++block) join_into((*both)[block], (*other.blocks)[block]);
  mine.blocks = both;
}

// What cores, of one block or of several, know together.
class Meeting {
 public:
  Meeting(int num_blocks, int first_block)
      : blocks_(std::make_shared<std::vector<Steps>>(num_blocks)), first_block_(first_block) {}

  void add(int block, const Clock& clock) {
    join_into((*blocks_)[block - first_block_], clock.steps);
    for (size_t other = 0; clock.blocks != nullptr && other < blocks_->size(); ++other) {
      join_into((*blocks_)[other], (*clock.blocks)[other]);
    }
    cycle_ = std::max(cycle_, clock.cycle);
  }
  // As the lanes of a block take it.
  Clock seen_by(int block) const {
    return {(*blocks_)[block - first_block_], cycle_, blocks_->size() > 1 ? blocks_ : nullptr};
  }

 private:
  std::shared_ptr<std::vector<Steps>> blocks_;
  int first_block_;
  double cycle_ = 0;
};

// The clocks of a block.
class PipeClocks {
 public:
  // Issues one instruction; its number on the lane, from 1.
  uint64_t issue(Lane lane) { return ++issued_[lane.index()]; }

  // Whether instruction `number` of `earlier` is complete when the instruction last issued to `lane` starts.
  bool complete(Lane earlier, uint64_t number, Lane lane) const {
    return (earlier == lane && lane.pipe == Pipe::S) || known_[lane.index()].steps[earlier.index()] >= number;
  }
  // The same of an instruction of another block.
  bool complete_in(int block, Lane earlier, uint64_t number, Lane lane) const {
    const auto& blocks = known_[lane.index()].blocks;
    return blocks != nullptr && (*blocks)[block][earlier.index()] >= number;
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

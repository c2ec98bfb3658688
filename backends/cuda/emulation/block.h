// The threads of a block, or of the blocks of a cluster: one fiber each, run in turn until it waits for others or ends.
//
// A barrier completes when every thread of the block (of the warp, of the cluster) stands at the same one, in the same
// line; a warp operation likewise. Threads that stand elsewhere or have ended can never come: the launch ends with the
// two places. That is stricter than hardware, which lets ended threads count as arrived.
#pragma once

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "fault.h"
#include "fiber.h"

namespace v4npu::cuda::emulation {

constexpr int kLanes = 32;

struct Copy {
  unsigned char* to;
  const unsigned char* from;  // null: zeros
  int bytes;
};

struct Thread {
  enum class State { kRuns, kWaitsForBlock, kWaitsForWarp, kWaitsForCluster, kEnded } state = State::kRuns;
  Where where;            // of the barrier or operation
  const char* what = "";  // its name
  void* arguments = nullptr;
  uint32_t block_epoch = 0;    // barriers of the block passed: what happened before one is known to all after it
  uint32_t warp_epoch = 0;     // barriers of the warp or block passed
  uint32_t cluster_epoch = 0;  // of the cluster, which are its blocks' too
  std::vector<Copy> copies;    // begun, oldest first
  std::vector<size_t> groups;  // of the committed ones, how many copies each
  size_t uncommitted = 0;
};

struct Dims {
  int x = 1, y = 1, z = 1;
};

// The launch that runs. Its clusters are `members` blocks one above the other (y), most often one.
struct Block {
  void (*kernel)(const void*) = nullptr;
  const void* params = nullptr;
  size_t params_bytes = 0;
  Dims grid, first;     // block of the cluster
  uint32_t serial = 0;  // of the first block among all blocks of all launches
  int num_threads = 0, members = 1;
  std::vector<Thread> threads;
  std::vector<std::unique_ptr<Fiber>> fibers;
  int running = -1;
  std::string failure, ignored;
  std::set<std::string> barriers;  // passed

  std::vector<unsigned char> shared;  // with room to align
  unsigned char* shared_begin = nullptr;
  size_t dynamic_bytes = 0, shared_bytes = 0, shared_limit = 0;  // of each block
  std::map<const void*, size_t> statics;
  std::vector<uint32_t> needed;  // barriers of the cluster that a block has to pass, for others read its shared memory

  int member_of(int i) const { return i / num_threads; }
  int member() const { return member_of(running); }
  unsigned char* shared_of(int m) const { return shared_begin + static_cast<size_t>(m) * shared_stride(); }
  size_t shared_stride() const { return (shared_limit + 1023) / 1024 * 1024; }
  std::string name_of(int m) const {
    return "block (" + std::to_string(first.x) + ", " + std::to_string(first.y + m) + ", " + std::to_string(first.z) +
           ")";
  }
};

inline Block& block() {
  static Block b;
  return b;
}
inline Thread& thread() { return block().threads[static_cast<size_t>(block().running)]; }

inline void fault(const std::string& text) {
  Block& b = block();
  b.failure = text + ", thread " + std::to_string(b.running % b.num_threads) + " of " + b.name_of(b.member());
  b.running = -1;
  Fiber::current()->leave();
  std::abort();  // nobody enters it again
}

inline void run_thread() {
  Block& b = block();
  b.kernel(b.params);
  thread().state = Thread::State::kEnded;
  b.running = -1;
  Fiber::current()->leave();
}

inline std::string place(int i) {
  const Block& b = block();
  const Thread& t = b.threads[static_cast<size_t>(i)];
  const std::string of = b.members > 1 ? " of " + b.name_of(b.member_of(i)) : "";
  const std::string name = "thread " + std::to_string(i % b.num_threads) + of;
  if (t.state == Thread::State::kEnded) return name + " has ended";
  return name + " waits at " + t.what + " (" + t.where.text() + ")";
}

// Whether threads [first, first + count) all wait for the same thing of this kind; a fault if they never can.
inline bool gathered(int first, int count, Thread::State kind) {
  Block& b = block();
  int waiting = 0;
  for (int i = first; i < first + count; ++i) waiting += b.threads[static_cast<size_t>(i)].state == kind;
  if (waiting < count) return false;
  const Thread& leader = b.threads[static_cast<size_t>(first)];
  for (int i = first + 1; i < first + count; ++i) {
    const Thread& t = b.threads[static_cast<size_t>(i)];
    if (t.where == leader.where && t.what == leader.what) continue;
    b.failure = "divergence: " + place(first) + ", " + place(i);
    return false;
  }
  return true;
}

inline void release(int first, int count) {
  for (int i = first; i < first + count; ++i) block().threads[static_cast<size_t>(i)].state = Thread::State::kRuns;
}

// If threads [first, first + count) all wait at a barrier of this kind, they pass it.
inline bool pass(int first, int count, Thread::State kind) {
  Block& b = block();
  if (!gathered(first, count, kind)) return false;
  const std::string where = b.threads[static_cast<size_t>(first)].where.text();
  b.barriers.insert(where);
  for (int i = first; i < first + count && where != b.ignored; ++i) {
    Thread& t = b.threads[static_cast<size_t>(i)];
    ++t.block_epoch, ++t.warp_epoch, t.cluster_epoch += kind == Thread::State::kWaitsForCluster;
  }
  release(first, count);
  return true;
}

// Runs all threads of a cluster to their end. Whatever stops it is in `failure`.
inline void run_cluster() {
  Block& b = block();
  const int all = b.members * b.num_threads;
  b.threads.assign(static_cast<size_t>(all), Thread{});
  b.needed.assign(static_cast<size_t>(b.members), 0);
  while (b.fibers.size() < static_cast<size_t>(all)) b.fibers.push_back(std::make_unique<Fiber>());
  for (int i = 0; i < all; ++i) b.fibers[static_cast<size_t>(i)]->reset();
  for (bool moved = true; moved && b.failure.empty();) {
    moved = false;
    for (int i = 0; i < all && b.failure.empty(); ++i) {
      if (b.threads[static_cast<size_t>(i)].state != Thread::State::kRuns) continue;
      moved = true;
      b.running = i;
      b.fibers[static_cast<size_t>(i)]->enter(&run_thread);
    }
    b.running = -1;
    if (!b.failure.empty()) return;
    for (int first = 0; first < all; first += b.num_threads)
      moved |= pass(first, b.num_threads, Thread::State::kWaitsForBlock);
    moved |= pass(0, all, Thread::State::kWaitsForCluster);
  }
  if (!b.failure.empty()) return;
  for (int i = 0; i < all; ++i) {
    const Thread::State state = b.threads[static_cast<size_t>(i)].state;
    if (state == Thread::State::kEnded) continue;
    // the first that waits, and one that it waits for in vain
    const int count = state == Thread::State::kWaitsForWarp    ? kLanes
                      : state == Thread::State::kWaitsForBlock ? b.num_threads
                                                               : all;
    const int first = i / count * count;
    int other = i;
    for (int j = first; j < first + count; ++j) {
      const Thread& t = b.threads[static_cast<size_t>(j)];
      if (t.state != b.threads[static_cast<size_t>(i)].state) other = j;
    }
    b.failure = "divergence: " + place(i) + ", " + place(other);
    return;
  }
  for (int m = 0; m < b.members; ++m) {
    if (b.threads[static_cast<size_t>(m * b.num_threads)].cluster_epoch < b.needed[static_cast<size_t>(m)])
      b.failure = "race: " + b.name_of(m) + " may have ended when another block reads its shared memory";
  }
}

inline void wait(Thread::State kind, const char* what, Where where, void* arguments = nullptr) {
  Thread& t = thread();
  t.state = kind;
  t.what = what;
  t.where = where;
  t.arguments = arguments;
  block().running = -1;
  Fiber::current()->leave();
}

// What the 32 lanes of a warp do together: the last to come does it for all. `apply` gets each lane's arguments.
template <class Arguments, class Apply>
void together(const char* what, Where where, Arguments& mine, const Apply& apply) {
  Block& b = block();
  const int self = b.running, first = self / kLanes * kLanes;
  Thread& t = thread();
  t.state = Thread::State::kWaitsForWarp;
  t.what = what;
  t.where = where;
  t.arguments = &mine;
  if (gathered(first, kLanes, Thread::State::kWaitsForWarp)) {
    Arguments* lanes[kLanes];
    for (int i = 0; i < kLanes; ++i)
      lanes[i] = static_cast<Arguments*>(b.threads[static_cast<size_t>(first + i)].arguments);
    apply(lanes, first);
    release(first, kLanes);
  }
  if (!b.failure.empty()) t.state = Thread::State::kEnded;
  if (t.state == Thread::State::kRuns) return;
  b.running = -1;
  Fiber::current()->leave();
}

}  // namespace v4npu::cuda::emulation

// The cores of a block: whose turn it is, and the flags between them.
//
// Each core runs on a thread of its own, one at a time: a core runs until it waits for a flag that is not set, or ends;
// then the next one that can go on does. So runs repeat exactly, and a deadlock is certain and named, not timed out.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fault.h"
#include "happens_before.h"
#include "shadow.h"

namespace v4npu::emulation {

constexpr int kCubeCore = 0;           // the vector cores are 1 and 2
constexpr int kCrossFlags = 16;        // per core, for modes 0 to 2 (CrossCoreSetFlag reference page)
constexpr size_t kMaxCrossCount = 15;  // a flag counts in 4 bits

// Memories on the chip. A local address is the memory's number above bit 32 and the byte below; bits 40 and up say
// which core it belongs to, once that is known: vector cores have a UB each, the cube core has the rest.
enum class Space : uint8_t { UB, L1, L0A, L0B, L0C, L0A_MX, L0B_MX };
constexpr int kSpaces = 7;
constexpr const char* kSpaceNames[kSpaces] = {"UB", "L1", "L0A", "L0B", "L0C", "L0A_MX", "L0B_MX"};
constexpr Space space_of(uint64_t address) { return static_cast<Space>(address >> 32 & 0xff); }
constexpr int owner_of(uint64_t address) { return static_cast<int>(address >> 40); }
constexpr uint64_t address_in(int owner, Space space, uint64_t byte) {
  return uint64_t{static_cast<uint8_t>(owner)} << 40 | uint64_t{static_cast<uint8_t>(space)} << 32 | byte;
}

// What the cores of a block share: on 3510 each reaches some of the others' memories.
struct BlockMemory {
  std::vector<uint8_t> bytes[kCores][kSpaces];
  Shadow shadow;
  std::map<uint64_t, std::string> labels;
  std::map<uint64_t, uint64_t> ends;  // of the buffers and tensors that the labels name
};

class Block {
 public:
  // label: how its faults begin.
  Block(std::vector<int> cores, std::string label) : cores_(std::move(cores)), label_(std::move(label)) {}

  PipeClocks clocks;
  BlockMemory memory;

  const std::string& label() const { return label_; }
  bool mixed() const { return cores_.size() > 1; }

  // Runs body(core) for every core to its end; throws what the first core to fail threw.
  void run(const std::function<void(int)>& body) {
    if (!mixed()) return body(cores_[0]);
    turn_ = cores_[0];
    std::vector<std::thread> threads;
    for (int core : cores_) threads.emplace_back([this, core, &body] { run_core(core, body); });
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
    for (int core : cores_) {
      for (int id = 0; id < kCrossFlags; ++id) {
        for (const std::deque<CrossFlag>* left : {&flags_[core][id], &arrived_[core][id]}) {
          if (left->empty()) continue;
          throw Fault(label_ + "CrossCoreSetFlag(" + std::to_string(id) + ") at " + line_of(left->front().at) +
                      ": surplus, the kernel ends and nothing waited for it");
        }
      }
    }
  }

  // Mode 2: the cube core's flag goes to both vector cores; the vector cores' flag to the cube core, once both set it.
  // Returns whether the flag could still be counted.
  bool set_cross(int core, int id, const Clock& clock, const Where& at) {
    if (core == kCubeCore) {
      for (int vector = 1; vector < kCores; ++vector) flags_[vector][id].push_back({clock, at});
      return flags_[1][id].size() <= kMaxCrossCount && flags_[2][id].size() <= kMaxCrossCount;
    }
    arrived_[core][id].push_back({clock, at});
    if (!arrived_[1][id].empty() && !arrived_[2][id].empty()) {
      CrossFlag both = arrived_[1][id].front();
      join_into(both.clock, arrived_[2][id].front().clock);
      arrived_[1][id].pop_front();
      arrived_[2][id].pop_front();
      flags_[kCubeCore][id].push_back(both);
    }
    return flags_[kCubeCore][id].size() <= kMaxCrossCount && arrived_[core][id].size() <= kMaxCrossCount;
  }

  // Lets other cores run until the flag is set, and takes it.
  Clock wait_cross(int core, int id, const Where& at) {
    if (flags_[core][id].empty()) {
      waits_[core] = {id, "waits for flag " + std::to_string(id) + " at " + line_of(at)};
      pass_on();
      await_turn(core);
      waits_[core].id = -1;
    }
    const Clock clock = flags_[core][id].front().clock;
    flags_[core][id].pop_front();
    return clock;
  }

 private:
  struct CrossFlag {
    Clock clock;
    Where at;
  };
  struct Wait {
    int id = -1;  // -1: can run
    std::string text;
  };
  struct Stopped {};  // unwinds the other cores after a fault

  void run_core(int core, const std::function<void(int)>& body) {
    try {
      await_turn(core);
      body(core);
    } catch (const Stopped&) {
    } catch (...) {
      const std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
    }
    ended_[core] = true;
    pass_on();
  }

  void await_turn(int core) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return turn_ == core || stopped_; });
    if (stopped_) throw Stopped{};
  }

  bool can_run(int core) const {
    return !ended_[core] && (waits_[core].id < 0 || !flags_[core][waits_[core].id].empty());
  }

  // Gives the turn to the next core that can run. If there is none but one still waits, or if a core has failed, all
  // stop.
  void pass_on() {
    {
      const std::lock_guard lock(mutex_);
      if (stopped_) return;
      turn_ = -1;
      bool waiting = false;
      for (int core : cores_) {
        if (turn_ < 0 && can_run(core)) turn_ = core;
        waiting = waiting || !ended_[core];
      }
      if (failure_ == nullptr && turn_ < 0 && waiting) failure_ = std::make_exception_ptr(Fault(deadlock()));
      stopped_ = failure_ != nullptr;
    }
    changed_.notify_all();
  }

  std::string deadlock() const {
    std::string text = label_ + "deadlock:";
    for (int core : cores_) {
      text += std::string(core == cores_[0] ? " " : ", ") + kCoreNames[core] + " " +
              (ended_[core] ? "has ended" : waits_[core].text);
    }
    return text;
  }

  std::vector<int> cores_;
  std::string label_;
  std::deque<CrossFlag> flags_[kCores][kCrossFlags];    // set for this core
  std::deque<CrossFlag> arrived_[kCores][kCrossFlags];  // set by this vector core, the other one's still missing
  Wait waits_[kCores];
  bool ended_[kCores] = {};
  std::mutex mutex_;  // guards what follows; the rest belongs to the core whose turn it is
  std::condition_variable changed_;
  int turn_ = -1;
  bool stopped_ = false;
  std::exception_ptr failure_;
};

}  // namespace v4npu::emulation

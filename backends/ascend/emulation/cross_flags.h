// Flags between cores: CrossCoreSetFlag and CrossCoreWaitFlag.
//
// Each core has a counter to each flag. A flag of a mode is up once all its setters have set it, and then counts one up
// for each of its takers; a wait takes one down (CrossCoreSetFlag reference page and the page on its features):
//   mode 0   set and taken by all cores of a kind, in all blocks
//   mode 1   set and taken by the two vector cores of a block
//   mode 2   set by the cube core, taken by both its vector cores; or set by both, taken by the cube core
//   mode 4   set by the cube core, taken by one vector core, or the other way round; 3510 only. The cube core's flags
//            of the second vector core are numbered from 16. These are flags of their own; modes 0 to 2 share theirs.
// A counter has 4 bits. On 3510 a wait holds back one pipe alone, and what is set from another may run ahead of it:
// from the 16th set on, flags must order each behind the take that makes room for it.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fault.h"
#include "happens_before.h"
#include "schedule.h"

namespace v4npu::emulation {

constexpr int kCrossFlags = 16;        // per core, for modes 0 to 2
constexpr int kSecondVector = 16;      // mode 4: what the cube core adds for its second vector core
constexpr int kLastSingleFlag = 10;    // mode 4: 0..10, and 16..26 on the cube core
constexpr size_t kMaxCrossCount = 15;  // a flag counts in 4 bits

// A wait as an instruction; of no lane where it holds back the whole core, on 2201 or by the scalar unit.
struct Take {
  std::optional<Lane> lane;
  uint64_t number;
  Where at;
};

class CrossFlags {
 public:
  // Of blocks first_block ... that run together, each with these cores.
  CrossFlags(int first_block, int num_blocks, std::vector<int> cores, std::string label)
      : first_block_(first_block),
        num_blocks_(num_blocks),
        cores_(std::move(cores)),
        label_(std::move(label)),
        states_(num_blocks_ * cores_.size()),
        schedule_(static_cast<int>(states_.size()), label_, [this](int member) { return name_of(member); }) {}

  // Runs body(block, core) for every core to its end.
  void run(const std::function<void(int, int)>& body) {
    schedule_.run([&](int member) { body(block_of(member), core_of(member)); });
    for (const State& state : states_) {
      for (int key = 0; key < kKeys; ++key) {
        if (!state.up[key].empty()) surplus(state.up[key].front(), "nothing waited for it");
        if (!state.set[key].empty()) {
          const CrossFlag& flag = state.set[key].front();
          surplus(flag, names(missing(parties(static_cast<int>(&state - states_.data()), flag.mode, key), key)) +
                            " did not set it");
        }
      }
    }
  }

  // Why such a flag cannot be used by that core, or nothing.
  std::optional<std::string> refusal(int core, int mode, int id, bool all_blocks) const {
    if (mode != 0 && cores_.size() < kCores) return "the kernel's type runs no cube core with two vector cores";
    if (mode == 0 && !all_blocks) return "deadlock, mode 0 waits for blocks that only get a core when others end";
    if (mode == 1 && core == kCubeCore) return "mode 1 is between vector cores";
    if (mode != 4 && (id < 0 || id >= kCrossFlags)) return "flags are 0 to " + std::to_string(kCrossFlags - 1);
    const int single = core == kCubeCore && id >= kSecondVector ? id - kSecondVector : id;
    if (mode == 4 && (single < 0 || single > kLastSingleFlag)) {
      return std::string("flags of mode 4 are 0 to 10") + (core == kCubeCore ? " and 16 to 26" : "");
    }
    return {};
  }

  // Sets a flag; why that is wrong, or nothing.
  std::optional<std::string> set(int block, int core, int mode, int id, const Clock& clock, const Where& at) {
    const int member = member_of(block, core), key = key_of(mode, id);
    for (const std::deque<CrossFlag>* used : {&states_[member].set[key], &states_[member].up[key]}) {
      if (used->empty() || used->front().mode == mode) continue;
      return "still in use in mode " + std::to_string(used->front().mode) + ", set at " + line_of(used->front().at);
    }
    states_[member].set[key].push_back({mode, id, clock, at});
    bool counted = states_[member].set[key].size() <= kMaxCrossCount;
    const Parties all = parties(member, mode, key);
    for (const int taker : all.takers) {
      const State& state = states_[taker];
      const size_t sets = state.taken[all.key].size() + state.up[all.key].size() + states_[member].set[key].size();
      if (sets <= kMaxCrossCount || sets - kMaxCrossCount > state.taken[all.key].size()) continue;
      const Take& take = state.taken[all.key][sets - kMaxCrossCount - 1];
      if (take.lane && !knows(clock, block, take, block_of(taker))) {
        return "may be set 16 times and not waited for: nothing orders it behind the wait of " + name_of(taker) +
               " at " + line_of(take.at);
      }
    }
    if (missing(all, key).empty()) {
      Meeting meeting(num_blocks_, first_block_);
      for (const int setter : all.setters) {
        meeting.add(block_of(setter), states_[setter].set[key].front().clock);
        states_[setter].set[key].pop_front();
      }
      for (const int taker : all.takers) {
        states_[taker].up[all.key].push_back({mode, id, meeting.seen_by(block_of(taker)), at});
        counted = counted && states_[taker].up[all.key].size() <= kMaxCrossCount;
      }
    }
    if (!counted) return "set 16 times and not waited for";
    return {};
  }

  // Lets other cores run until the flag is up, and takes it; its mode and clock.
  std::pair<int, Clock> take(int block, int core, int mode, int id, const Take& take) {
    const Where at = take.at;
    const int member = member_of(block, core), key = key_of(mode, id);
    std::deque<CrossFlag>& up = states_[member].up[key];
    schedule_.wait(member, [&up] { return !up.empty(); }, [=, this] { return waiting(member, key, id, at); });
    std::pair<int, Clock> taken{up.front().mode, up.front().clock};
    up.pop_front();
    states_[member].taken[key].push_back(take);
    return taken;
  }

 private:
  static constexpr int kKeys = kCrossFlags + 2 * kSecondVector;  // flags of modes 0 to 2, then those of mode 4

  struct CrossFlag {
    int mode, id;
    Clock clock;
    Where at;
  };
  struct State {                       // of a core
    std::deque<CrossFlag> up[kKeys];   // for this core to take
    std::deque<CrossFlag> set[kKeys];  // by this core; another setter is still missing
    std::vector<Take> taken[kKeys];    // by this core
  };
  struct Parties {
    std::vector<int> setters, takers;
    int key;  // of the takers
  };

  // Whether a take is complete in a clock of that block.
  bool knows(const Clock& clock, int block, const Take& take, int block_of_take) const {
    if (block == block_of_take) return clock.steps[take.lane->index()] >= take.number;
    return clock.blocks != nullptr && (*clock.blocks)[block_of_take - first_block_][take.lane->index()] >= take.number;
  }
  static int key_of(int mode, int id) { return mode == 4 ? kCrossFlags + id : id; }
  int block_of(int member) const { return first_block_ + member / static_cast<int>(cores_.size()); }
  int core_of(int member) const { return cores_[member % cores_.size()]; }
  int member_of(int block, int core) const {
    const auto place = static_cast<int>(std::find(cores_.begin(), cores_.end(), core) - cores_.begin());
    return (block - first_block_) * static_cast<int>(cores_.size()) + place;
  }
  std::string name_of(int member) const {
    const std::string core = kCoreNames[core_of(member)];
    return num_blocks_ > 1 ? core + " of block " + std::to_string(block_of(member)) : core;
  }
  std::string names(const std::vector<int>& members) const {
    std::vector<std::string> texts;
    for (const int member : members) texts.push_back(name_of(member));
    return listed(texts, 4);
  }

  Parties parties(int setter, int mode, int key) const {
    const int block = block_of(setter), core = core_of(setter);
    if (mode == 0) {
      std::vector<int> alike;
      for (int member = 0; member < static_cast<int>(states_.size()); ++member) {
        if ((core_of(member) == kCubeCore) == (core == kCubeCore)) alike.push_back(member);
      }
      return {alike, alike, key};
    }
    const std::vector<int> cube{member_of(block, kCubeCore)}, vectors{member_of(block, 1), member_of(block, 2)};
    if (mode == 1) return {vectors, vectors, key};
    if (mode == 2) return core == kCubeCore ? Parties{cube, vectors, key} : Parties{vectors, cube, key};
    if (core != kCubeCore) return {{setter}, cube, key + (core - 1) * kSecondVector};
    const int vector = (key - kCrossFlags) / kSecondVector;
    return {cube, {vectors[vector]}, key - vector * kSecondVector};
  }
  std::vector<int> missing(const Parties& all, int key) const {
    std::vector<int> found;
    for (const int setter : all.setters) {
      if (states_[setter].set[key].empty()) found.push_back(setter);
    }
    return found;
  }

  // What a core waits for; where others have set the flag, who has not.
  std::string waiting(int member, int key, int id, const Where& at) const {
    std::string text = "waits for flag " + std::to_string(id) + " at " + line_of(at);
    for (int setter = 0; setter < static_cast<int>(states_.size()); ++setter) {
      if (states_[setter].set[key].empty()) continue;
      const Parties all = parties(setter, states_[setter].set[key].front().mode, key);
      const bool takes = std::find(all.takers.begin(), all.takers.end(), member) != all.takers.end();
      if (takes) return text + ", which " + names(missing(all, key)) + " did not set";
    }
    return text;
  }

  [[noreturn]] void surplus(const CrossFlag& flag, const std::string& why) const {
    throw Fault(label_ + "CrossCoreSetFlag(" + std::to_string(flag.id) + ") at " + line_of(flag.at) +
                ": surplus, the kernel ends and " + why);
  }

  int first_block_, num_blocks_;
  std::vector<int> cores_;
  std::string label_;
  std::vector<State> states_;  // by member: the cores of the first block, those of the second ...
  Schedule schedule_;
};

}  // namespace v4npu::emulation

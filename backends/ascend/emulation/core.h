// One core at work, vector or cube: its pipes, flags and memories, the global memory it shares, and the checks.
//
// Every API call of the dialect becomes one Instruction on one pipe. It announces what it reads and writes, and each
// announcement is checked against the limits of the chip and against all earlier instructions.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "block.h"
#include "fault.h"
#include "happens_before.h"
#include "shadow.h"
#include "skus.h"

namespace v4npu::emulation {

constexpr int kEventIds = 8;          // per pair of pipes, on 2201 and 3510 alike (SetFlag/WaitFlag reference page)
constexpr int kEventKinds = 64;       // more than HardEvent has
constexpr uint64_t kMaxBuffers = 64;  // per kernel (TPipe::InitBuffer reference page)
constexpr uint64_t kBlockBytes = 32;  // alignment and copy unit of UB and L1
constexpr uint64_t kMaxInstructions = 1'000'000;  // watchdog, per core; the tests stay below a tenth of it

constexpr uint64_t whole_blocks(uint64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

enum class Access : int32_t { In, Out, InOut };

struct Region {  // an argument of the kernel in global memory
  uint8_t* data;
  int64_t bytes;
  Access access;
  const char* name;
};

struct Instruction {
  const char* name;
  Where at;
  Lane lane;
  int block;
  uint64_t number;               // on its lane
  double start = 0, cycles = 0;  // modelled
  bool global = false;           // moves bytes of global memory
};

// What the blocks of one launch share.
struct Launch {
  const Sku& sku;
  std::string kernel;
  int64_t num_blocks;
  std::vector<Region> regions;
  std::string ignored_wait;         // "file:line" of a wait that orders nothing: how the tests seed a missing one
  bool flags;                       // the kernel's type has flags between cores
  bool together;                    // all blocks run at once, as far as flags of mode 0 are concerned
  std::vector<Instruction> issued;  // by InstructionId; entry 0 stands for none
  Shadow global;
  std::set<std::string> waits;  // "file:line" of every wait and barrier that was passed
  uint64_t used_ub = 0;         // bytes, of the block that used most
  bool meets = false;           // blocks wait for each other: readers of global memory are remembered by block too
};

class Core {
 public:
  Core(Launch& launch, Block& shared, int core)
      : launch_(launch), shared_(shared), block_(shared.number), core_(core), limits_(limits_of(launch.sku)) {}

  int block() const { return block_; }
  int number() const { return core_; }
  bool is_cube() const { return core_ == kCubeCore; }
  int vector_index() const { return is_cube() ? 0 : core_ - 1; }
  bool mixed() const { return shared_.mixed; }
  Launch& launch() { return launch_; }
  uint8_t* local(uint64_t address) {
    std::vector<uint8_t>& bytes = shared_.memory.bytes[owner_of(address)][static_cast<int>(space_of(address))];
    if (bytes.empty()) bytes.resize(static_cast<uint64_t>(capacity(space_of(address))), 0xff);
    return bytes.data() + static_cast<uint32_t>(address);
  }

  // A tensor's address as this core means it.
  uint64_t resolve(uint64_t address) const {
    return address_in(space_of(address) == Space::UB ? core_ : kCubeCore, space_of(address),
                      static_cast<uint32_t>(address));
  }

  [[noreturn]] void fail(const std::string& what) const { throw Fault(shared_.label + what); }

  // ---- instructions

  InstructionId issue(const char* instruction, Pipe pipe, const Where& at) {
    if (in_vector_function_) fail(std::string(instruction) + " at " + line_of(at) + ": not in a vector function");
    count_instruction(at);
    launch_.issued.push_back({instruction, at, lane(pipe), block_, clocks().issue(lane(pipe))});
    return static_cast<InstructionId>(launch_.issued.size() - 1);
  }

  void count_instruction(const Where& at) {
    if (++num_instructions_ > kMaxInstructions) fail("watchdog: still running at " + line_of(at));
  }

  // A vector function is one instruction, whose faults name the line of the register code.
  void enter_vector_function() { in_vector_function_ = true; }
  void leave_vector_function() { in_vector_function_ = false; }
  void rename(InstructionId id, const char* name, const Where& at) {
    launch_.issued[id].name = name;
    launch_.issued[id].at = at;
  }

  void occupy(InstructionId id, double cycles, bool global) {
    Instruction& instruction = launch_.issued[id];
    instruction.cycles = cycles;
    instruction.global = global;
    instruction.start = clocks().occupy(instruction.lane, cycles);
  }

  void read_local(InstructionId reader, uint64_t address, uint64_t bytes) {
    read(shared_.memory.shadow, reader, address, bytes, [&](uint64_t at) { return describe_local(at); });
  }
  void write_local(InstructionId writer, uint64_t address, uint64_t bytes) {
    write(shared_.memory.shadow, writer, address, bytes, [&](uint64_t at) { return describe_local(at); });
  }
  // Orders a read, whatever the bytes hold; which of them hold anything.
  void read_local_unchecked(InstructionId reader, uint64_t address, uint64_t bytes, bool* valid) {
    read(shared_.memory.shadow, reader, address, bytes, [&](uint64_t at) { return describe_local(at); }, valid);
  }
  void poison_local(uint64_t address, uint64_t bytes) {
    shared_.memory.shadow.set_valid(resolve(address), bytes, false);
  }

  void read_global(InstructionId reader, const uint8_t* data, uint64_t bytes) {
    const Region& region = find_region(reader, data, bytes);
    auto where = [&](uint64_t at) { return describe_global(region, at); };
    // The host wrote the inputs before the launch.
    if (region.access != Access::Out) launch_.global.set_valid(address_of(data), bytes, true);
    read(launch_.global, reader, address_of(data), bytes, where);
  }
  void write_global(InstructionId writer, uint8_t* data, uint64_t bytes) {
    const Region& region = find_region(writer, data, bytes);
    if (region.access == Access::In) fail(describe(writer) + " writes to " + region.name + ", which is read-only");
    write(launch_.global, writer, address_of(data), bytes, [&](uint64_t at) { return describe_global(region, at); });
  }

  // ---- flags and barriers

  void set_flag(int event, const char* event_name, Pipe from, int id, const Where& at) {
    Flag& flag = flag_of(event, event_name, id, "SetFlag", at);
    const std::string call = "SetFlag<" + flag_name(event_name, id) + " at " + line_of(at) + ": ";
    if (flag.clock) fail(call + "already set at " + line_of(flag.at) + " and not waited for");
    if (held_[event][id]) fail(call + "a queue or TPipe itself uses this event id");
    flag = {clocks().after(lane(from)), at, event_name};
  }
  void wait_flag(int event, const char* event_name, Pipe to, int id, const Where& at) {
    Flag& flag = flag_of(event, event_name, id, "WaitFlag", at);
    if (!flag.clock) {
      fail("WaitFlag<" + flag_name(event_name, id) + " at " + line_of(at) + ": deadlock, no SetFlag comes before it");
    }
    join(to, *flag.clock, at);
    flag.clock.reset();
  }
  Clock after(Pipe pipe) const { return clocks().after(lane(pipe)); }
  void join(Pipe pipe, const Clock& clock, const Where& at) {
    if (!ignored(at)) clocks().join(lane(pipe), clock);
  }
  // Notes that a wait was passed; whether it is the one that a test leaves out.
  bool ignored(const Where& wait) {
    std::string site = line_of(wait);
    const bool ignored = site == launch_.ignored_wait;
    launch_.waits.insert(std::move(site));
    return ignored;
  }
  // A wait within an instruction, which no kernel can leave out.
  void order(Pipe from, Pipe to) { clocks().join(lane(to), after(from)); }
  void barrier(Pipe pipe, const Where& at) { join(pipe, after(pipe), at); }
  void barrier_all(const Where& at) {
    if (!ignored(at)) clocks().join_all(core_, clocks().after_all(core_));
  }

  // ---- flags between cores

  void set_cross(int mode, Pipe from, int id, const Where& at) {
    const std::string call = "CrossCoreSetFlag(" + std::to_string(id) + ") at " + line_of(at) + ": ";
    check_cross(call, mode, from, id);
    launch_.meets = launch_.meets || mode == 0;
    if (const auto wrong = shared_.flags.set(block_, core_, mode, id, after(from), at)) fail(call + *wrong);
  }
  // 2201 heeds neither mode nor pipe and holds back all further instructions of the core, 3510 those of the pipe.
  void wait_cross(int mode, Pipe pipe, int id, const Where& at) {
    const std::string call = "CrossCoreWaitFlag(" + std::to_string(id) + ") at " + line_of(at) + ": ";
    const bool all_pipes = launch_.sku.arch == 2201;
    check_cross(call, mode, all_pipes ? Pipe::MTE2 : pipe, id);
    std::optional<Lane> held;
    if (!all_pipes && pipe != Pipe::S) held = lane(pipe);
    const Take take{held, held ? clocks().issue(*held) : 0, at};
    const auto [set_mode, clock] = shared_.flags.take(block_, core_, mode, id, take);
    if (!all_pipes && set_mode != mode) fail(call + "the flag was set in mode " + std::to_string(set_mode));
    if (ignored(at)) return;
    if (!held) {  // the scalar unit issues to all pipes
      clocks().join_all(core_, clock);
    } else {
      clocks().join(lane(pipe), clock);
    }
  }

  // ---- event ids: held by queues between EnQue and DeQue, FreeTensor and AllocTensor, and some by TPipe itself

  int free_event(int event, const char* event_name, const Where& at) const {
    for (int id = 0; id < kEventIds; ++id) {
      if (!held_[event][id]) return id;
    }
    fail("no event id of " + std::string(event_name) + " is left of " + std::to_string(kEventIds) + " at " +
         line_of(at));
  }
  int take_event(int event, const char* event_name, const Where& at) {
    const int id = free_event(event, event_name, at);
    const Flag& flag = flags_[event][id];  // TPipe does not see those that a kernel sets with an id it only fetched
    if (flag.clock) {
      fail("SetFlag<" + flag_name(event_name, id) + " at " + line_of(flag.at) + ": a queue takes this event id at " +
           line_of(at) + ", before anything waited for the flag");
    }
    held_[event][id] = true;
    return id;
  }
  void release_event(int event, int id) { held_[event][id] = false; }

  // ---- buffers on the chip

  int64_t capacity(Space space) const {
    const int64_t bytes[kSpaces] = {limits_.ub,  limits_.l1,   limits_.l0a, limits_.l0b,
                                    limits_.l0c, limits_.l0mx, limits_.l0mx};
    return bytes[static_cast<int>(space)];
  }

  uint64_t allocate(Space space, uint64_t bytes, const std::string& label, const Where& at) {
    const std::string memory = kSpaceNames[static_cast<int>(space)], call = "InitBuffer at " + line_of(at) + ": ";
    const bool vector = !is_cube();
    if (vector != (space == Space::UB)) fail(call + "a " + (vector ? "vector" : "cube") + " core has no " + memory);
    const uint64_t size = whole_blocks(bytes), limit = static_cast<uint64_t>(capacity(space));
    uint64_t& used = used_[static_cast<int>(space)];
    if (used + size > limit) {
      fail(call + std::to_string(used + size) + " bytes of " + memory + " needed, " +
           std::to_string(used + size - limit) + " more than the " + std::to_string(limit) + " there are");
    }
    if (++num_buffers_ > kMaxBuffers) fail(call + "more than 64 buffers");
    const uint64_t address = address_in(0, space, used);
    labels()[resolve(address)] = label;
    shared_.memory.ends[resolve(address)] = resolve(address) + size;
    used += size;
    return address;
  }
  // A memory that is not handed out in buffers: the scales of L0A and L0B lie where their operands do.
  uint64_t whole(Space space) {
    labels()[address_in(kCubeCore, space, 0)] = kSpaceNames[static_cast<int>(space)];
    return address_in(0, space, 0);
  }
  // A tensor that the kernel places by hand; a cube core may name the UB of its vector cores.
  uint64_t place(Space space, uint64_t byte, uint64_t bytes, const Where& at) {
    const std::string memory = kSpaceNames[static_cast<int>(space)], call = "LocalTensor at " + line_of(at) + ": ";
    const auto limit = static_cast<uint64_t>(capacity(space));
    if (byte % kBlockBytes != 0) fail(call + "byte " + std::to_string(byte) + " is not a multiple of 32");
    if (byte + bytes > limit) {
      fail(call + std::to_string(byte + bytes) + " bytes of " + memory + " needed, " +
           std::to_string(byte + bytes - limit) + " more than the " + std::to_string(limit) + " there are");
    }
    if (byte < used(space)) fail(call + "lies in a buffer that TPipe has handed out");
    for (int core = 0; core < kCores; ++core) {
      const bool has = (core == kCubeCore) != (space == Space::UB);
      if (has && (core == core_ || is_cube() || core == kCubeCore)) {
        const uint64_t address = address_in(core, space, byte);
        labels().emplace(address, "the tensor of " + line_of(at));
        uint64_t& end = shared_.memory.ends[address];
        end = std::max(end, address + bytes);
      }
    }
    uint64_t& placed = placed_[static_cast<int>(space)];
    placed = std::max(placed, byte + bytes);
    return address_in(0, space, byte);
  }
  // The end of the buffer or tensor that a resolved address lies in; the address itself if it lies in none.
  uint64_t buffer_end(uint64_t resolved) const {
    const std::map<uint64_t, uint64_t>& ends = shared_.memory.ends;
    const auto after = ends.upper_bound(resolved);
    return after == ends.begin() ? resolved : std::max(resolved, std::prev(after)->second);
  }
  uint64_t used(Space space) const { return used_[static_cast<int>(space)]; }

  std::string describe(InstructionId id) const {
    const Instruction& i = launch_.issued[id];
    std::string text = std::string(i.name) + " at " + line_of(i.at) + " (pipe " + name(i.lane.pipe);
    if (mixed()) text += std::string(" of ") + kCoreNames[i.lane.core];
    return text + (i.block == block_ ? ")" : ", block " + std::to_string(i.block) + ")");
  }
  std::string describe_local(uint64_t resolved) const {
    const std::map<uint64_t, std::string>& labels = shared_.memory.labels;
    auto label = labels.upper_bound(resolved);
    const int owner = owner_of(resolved);
    const std::string whose = owner == core_ ? "" : std::string(", ") + kCoreNames[owner];
    if (label == labels.begin() || std::prev(label)->first >> 32 != resolved >> 32) {
      return "byte " + std::to_string(static_cast<uint32_t>(resolved)) + " of " +
             kSpaceNames[static_cast<int>(space_of(resolved))] + whose;
    }
    --label;
    return "byte " + std::to_string(resolved - label->first) + " of " + label->second + whose;
  }

  void at_end(std::function<void()> check) { end_checks_.push_back(std::move(check)); }

  // The kernel has returned: nothing may be left set or taken.
  void finish() {
    launch_.used_ub = std::max({launch_.used_ub, used(Space::UB), placed_[static_cast<int>(Space::UB)]});
    for (const auto& check : end_checks_) check();
    for (int event = 0; event < kEventKinds; ++event) {
      for (int id = 0; id < kEventIds; ++id) {
        const Flag& flag = flags_[event][id];
        if (flag.clock) {
          fail("SetFlag<" + flag_name(flag.event_name, id) + " at " + line_of(flag.at) +
               ": surplus, the kernel ends and nothing waited for it");
        }
      }
    }
  }

  static Core& current() { return *slot(); }
  static Core*& slot() {
    thread_local Core* core = nullptr;
    return core;
  }

 private:
  struct Flag {
    std::optional<Clock> clock;  // empty = not set
    Where at;
    const char* event_name = "";
  };

  std::map<uint64_t, std::string>& labels() { return shared_.memory.labels; }
  PipeClocks& clocks() { return shared_.clocks; }
  const PipeClocks& clocks() const { return shared_.clocks; }
  Lane lane(Pipe pipe) const { return {core_, pipe}; }

  // A call for a pipe that the core does not have is compiled to nothing (3510) or never done.
  void check_cross(const std::string& call, int mode, Pipe pipe, int id) const {
    if (!launch_.flags) fail(call + "the kernel's type runs no cores together");
    const bool of_cube = pipe == Pipe::M || pipe == Pipe::MTE1 || pipe == Pipe::FIX;
    const bool of_vector = pipe == Pipe::V || (pipe == Pipe::MTE3 && launch_.sku.arch == 3510);
    if (is_cube() ? of_vector : of_cube) {
      fail(call + "a " + (is_cube() ? "cube" : "vector") + " core has no pipe " + name(pipe));
    }
    if (const auto wrong = shared_.flags.refusal(core_, mode, id, launch_.together)) fail(call + *wrong);
  }

  static uint64_t address_of(const uint8_t* data) { return reinterpret_cast<uint64_t>(data); }
  static std::string flag_name(const char* event_name, int id) {
    return "HardEvent::" + std::string(event_name) + ">(" + std::to_string(id) + ")";
  }

  Flag& flag_of(int event, const char* event_name, int id, const char* call, const Where& at) {
    if (id < 0 || id >= kEventIds) {
      fail(std::string(call) + "<" + flag_name(event_name, id) + " at " + line_of(at) + ": event ids are 0 to " +
           std::to_string(kEventIds - 1));
    }
    return flags_[event][id];
  }

  bool ordered(InstructionId earlier, const Instruction& now) const {
    const Instruction& e = launch_.issued[earlier];
    return e.block == now.block ? clocks().complete(e.lane, e.number, now.lane)
                                : clocks().complete_in(e.block, e.lane, e.number, now.lane);
  }

  // On one pipe an earlier instruction reads before a later one writes, and the scalar unit has its value before it
  // issues anything further.
  static bool reads_before(const Instruction& reader, const Instruction& now) {
    return reader.block == now.block && reader.lane.core == now.lane.core &&
           (reader.lane.pipe == now.lane.pipe || reader.lane.pipe == Pipe::S);
  }

  [[noreturn]] void race(InstructionId now, const char* does, InstructionId earlier, const char* did,
                         const std::string& where) const {
    const Instruction& a = launch_.issued[earlier];
    const Instruction& b = launch_.issued[now];
    std::string missing = std::string("no wait of ") + name(b.lane.pipe) + " for " + name(a.lane.pipe);
    if (a.lane == b.lane) missing = std::string("no PipeBarrier<PIPE_") + name(a.lane.pipe) + ">";
    if (a.lane.core != b.lane.core) {
      missing = std::string("no CrossCoreWaitFlag of ") + kCoreNames[b.lane.core] + " for " + kCoreNames[a.lane.core];
    }
    if (a.block != b.block)
      missing = launch_.together ? "no CrossCoreWaitFlag<0> orders the blocks" : "blocks are not ordered";
    fail("race: " + describe(now) + " " + does + " " + where + " that " + describe(earlier) + " " + did + ": " +
         missing + " in between");
  }

  template <typename Place>
  void read(Shadow& shadow, InstructionId id, uint64_t address, uint64_t bytes, Place place, bool* valid = nullptr) {
    const Instruction now = launch_.issued[id];
    InstructionId good = 0;  // neighbouring bytes mostly share a writer
    shadow.for_range(address, bytes, [&](Shadow::Page& page, uint64_t first, uint64_t here, uint64_t base) {
      for (uint64_t i = 0; i < here; ++i) {
        if (valid != nullptr) {
          valid[base + i - address] = page.valid[first + i];
        } else if (!page.valid[first + i]) {
          fail(describe(id) + " reads " + place(base + i) + ", which nothing has written");
        }
        const InstructionId writer = page.writer[first + i];
        if (writer != good && writer != 0 && writer != id) {
          if (!ordered(writer, now)) race(id, "reads", writer, "wrote", place(base + i));
          good = writer;
        }
      }
      std::fill_n(page.reader(now.lane.index() + (launch_.meets ? now.block * kLanes : 0)) + first, here, id);
    });
  }

  template <typename Place>
  void write(Shadow& shadow, InstructionId id, uint64_t address, uint64_t bytes, Place place) {
    const Instruction now = launch_.issued[id];
    InstructionId good_writer = 0, good_reader = 0;
    shadow.for_range(address, bytes, [&](Shadow::Page& page, uint64_t first, uint64_t here, uint64_t base) {
      for (uint64_t i = 0; i < here; ++i) {
        const InstructionId writer = page.writer[first + i];
        if (writer != good_writer && writer != 0 && writer != id) {
          if (!ordered(writer, now)) race(id, "writes", writer, "wrote", place(base + i));
          good_writer = writer;
        }
        page.writer[first + i] = id;
        page.valid[first + i] = true;
      }
      for (const auto& [lane, readers] : page.readers) {
        for (uint64_t i = 0; i < here; ++i) {
          const InstructionId reader = readers[first + i];
          if (reader == good_reader || reader == 0) continue;
          if (!reads_before(launch_.issued[reader], now) && !ordered(reader, now)) {
            race(id, "writes", reader, "read", place(base + i));
          }
          good_reader = reader;
        }
      }
    });
  }

  const Region& find_region(InstructionId id, const uint8_t* data, uint64_t bytes) const {
    const Region* nearest = nullptr;
    int64_t distance = 0;
    for (const Region& region : launch_.regions) {
      const int64_t from = data - region.data, to = from + static_cast<int64_t>(bytes) - region.bytes;
      if (from >= 0 && to <= 0) return region;
      const int64_t away = from < 0 ? -from : to;
      if (nearest == nullptr || away < distance) nearest = &region, distance = away;
    }
    if (nearest == nullptr) fail(describe(id) + " touches global memory, and the kernel was given none");
    const int64_t from = data - nearest->data;
    std::string text = describe(id) + " is out of bounds: bytes " + std::to_string(from) + " to " +
                       std::to_string(from + static_cast<int64_t>(bytes)) + " of " + nearest->name + ", which has " +
                       std::to_string(nearest->bytes);
    // What wraps in int32 lies before the start.
    if (from < 0) text += "; a negative offset: an int32 overflow?";
    fail(text);
  }

  std::string describe_global(const Region& region, uint64_t address) const {
    return "byte " + std::to_string(address - address_of(region.data)) + " of " + region.name;
  }

  Launch& launch_;
  Block& shared_;
  int block_, core_;
  const ArchLimits& limits_;
  Flag flags_[kEventKinds][kEventIds];
  bool held_[kEventKinds][kEventIds] = {};  // event ids, by queues and TPipe
  uint64_t used_[kSpaces] = {}, placed_[kSpaces] = {}, num_instructions_ = 0, num_buffers_ = 0;
  bool in_vector_function_ = false;
  std::vector<std::function<void()>> end_checks_;
};

}  // namespace v4npu::emulation

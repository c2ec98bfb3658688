// Memory as the kernels may see it. Their libraries are compiled with -fsanitize=thread, so every access that is not
// provably a thread's own calls __tsan_read or __tsan_write, and those are answered here (no part of the sanitizer's
// own runtime is linked). An access must lie in the thread's stack, in the block's shared memory, in a tensor of the
// call or in constants of the kernel's library; and per byte the last writer and readers are kept:
//
//   - a byte that nothing has written, or that a background copy is still to fill, must not be read;
//   - two threads, one of them writing, need a barrier between them: of the block, or of the warp when they share one.
//     Blocks have no order, except through barriers of their cluster and the launches they belong to.
//
// That is decided by counted barriers, not by timing: a missing barrier is found although threads run in turn.
#pragma once

#include <dlfcn.h>
#include <link.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "block.h"

namespace v4npu::cuda::emulation {

enum class Access : int32_t { kRead, kWrite, kReadWrite };  // kWrite: holds nothing until it is written

struct Actor {
  static constexpr uint16_t kSeveral = 0xffff;  // threads of one warp
  static constexpr uint16_t kSeveralWarps = 0xfffe;
  static constexpr uint16_t kSeveralBlocks = 0xfffd;  // of one cluster
  uint32_t block = 0;                                 // serial, 0 = nobody
  uint32_t block_epoch = 0, warp_epoch = 0, cluster_epoch = 0;
  uint16_t thread = 0, warp = 0;
  const void* at = nullptr;
};

struct Shadow {
  Actor writer, reader;
  bool in_flight = false;
};

struct Region {
  unsigned char* begin;
  size_t bytes;
  Access access;
  std::string name;
  std::vector<Shadow> shadow;  // of writable ones
};

struct Memory {
  std::vector<Region> regions;
  std::vector<std::vector<Shadow>> shared;  // of each block of the cluster
  uint32_t first_serial = 1;                // of the launch that runs: blocks before it are ordered before it
  size_t last = 0;
};

inline Memory& memory() {
  static Memory m;
  return m;
}

// "file:line" of a return address, by binutils if they are there.
inline std::string source_of(const void* at) {
  Dl_info info{};
  if (at == nullptr || dladdr(at, &info) == 0) return "";
  const auto offset = static_cast<const char*>(at) - static_cast<const char*>(info.dli_fbase) - 1;
  char command[1024], line[512] = "";
  std::snprintf(command, sizeof command, "addr2line -e '%s' 0x%tx 2>/dev/null", info.dli_fname, offset);
  if (FILE* pipe = popen(command, "r")) {
    if (std::fgets(line, sizeof line, pipe) == nullptr) line[0] = 0;
    pclose(pipe);
  }
  std::string text = line;
  text = text.substr(0, text.find_first_of(" \n"));
  return text.empty() || text[0] == '?' ? "" : " at " + text.substr(text.rfind('/') + 1);
}

inline Actor self(const void* at) {
  const Block& b = block();
  const Thread& t = thread();
  const int id = b.running % b.num_threads;
  return {b.serial + static_cast<uint32_t>(b.member()),
          t.block_epoch,
          t.warp_epoch,
          t.cluster_epoch,
          static_cast<uint16_t>(id),
          static_cast<uint16_t>(id / kLanes),
          at};
}

inline bool in_cluster(const Actor& a) { return a.block - block().serial < static_cast<uint32_t>(block().members); }

// Whether what `a` did is known to have happened before what `b` does.
inline bool before(const Actor& a, const Actor& b) {
  if (a.block < memory().first_serial) return true;  // nobody, or another launch
  if (a.block != b.block || a.thread == Actor::kSeveralBlocks)
    return in_cluster(a) && a.cluster_epoch < b.cluster_epoch;
  if (a.thread == b.thread || a.block_epoch < b.block_epoch) return true;
  return a.thread != Actor::kSeveralWarps && a.warp == b.warp && a.warp_epoch < b.warp_epoch;
}

inline std::string describe(const Actor& a) {
  std::string who = a.thread >= Actor::kSeveralBlocks ? "several threads" : "thread " + std::to_string(a.thread);
  if (a.block != block().serial + static_cast<uint32_t>(block().member())) who += " of another block";
  return who + source_of(a.at);
}

[[noreturn]] inline void race(const char* verb, const std::string& where, const char* did, const Actor& other,
                              const void* at) {
  fault("race: " + std::string(verb) + " " + where + source_of(at) + ", which " + describe(other) + " " + did +
        " with no barrier in between");
}

inline std::string byte_of(const std::string& name, const unsigned char* begin, const unsigned char* p) {
  return "byte " + std::to_string(p - begin) + " of " + name;
}

inline void note(Shadow& s, bool write, const Actor& me, const std::string& name, const unsigned char* begin,
                 const unsigned char* p) {
  if (s.in_flight) {
    fault("race: " + byte_of(name, begin, p) + " is touched" + source_of(me.at) + " before its copy is waited for");
  }
  if (!before(s.writer, me)) race(write ? "writes" : "reads", byte_of(name, begin, p), "writes", s.writer, me.at);
  if (write) {
    if (!before(s.reader, me)) race("writes", byte_of(name, begin, p), "reads", s.reader, me.at);
    s.writer = me;
    return;
  }
  if (s.writer.block == 0) fault("reads " + byte_of(name, begin, p) + source_of(me.at) + ", which nothing has written");
  if (before(s.reader, me)) {
    s.reader = me;
  } else if (s.reader.block == me.block) {
    const bool same = s.reader.thread != Actor::kSeveralWarps && s.reader.warp == me.warp;
    if (s.reader.thread != Actor::kSeveralBlocks) s.reader.thread = same ? Actor::kSeveral : Actor::kSeveralWarps;
    s.reader.at = me.at;
  } else if (in_cluster(s.reader)) {
    s.reader.thread = Actor::kSeveralBlocks;
  }
}

// Constants of a kernel's library.
inline bool is_constant(const unsigned char* p) {
  Dl_info info{}, kernel{};
  return dladdr(p, &info) != 0 && dladdr(reinterpret_cast<void*>(block().kernel), &kernel) != 0 &&
         info.dli_fbase == kernel.dli_fbase;
}

inline Region* region_of(const unsigned char* p) {
  Memory& m = memory();
  const auto holds = [p](const Region& r) { return static_cast<size_t>(p - r.begin) < r.bytes; };
  if (m.last < m.regions.size() && holds(m.regions[m.last])) return &m.regions[m.last];
  for (size_t i = 0; i < m.regions.size(); ++i) {
    if (!holds(m.regions[i])) continue;
    m.last = i;
    return &m.regions[i];
  }
  return nullptr;
}

inline unsigned char* own_shared() { return block().shared_of(block().member()); }
inline bool in_shared(const unsigned char* p) { return static_cast<size_t>(p - own_shared()) < block().shared_bytes; }

inline void touch_shared(int member, const unsigned char* p, size_t bytes, bool write, const void* at) {
  const Block& b = block();
  const unsigned char* begin = b.shared_of(member);
  if (p + bytes > begin + b.shared_bytes) fault("goes beyond shared memory" + source_of(at));
  Shadow* shadow = &memory().shared[static_cast<size_t>(member)][static_cast<size_t>(p - begin)];
  const Actor me = self(at);
  for (size_t i = 0; i < bytes; ++i) note(shadow[i], write, me, "shared memory", begin, p + i);
}

inline void touch(const void* address, size_t bytes, bool write, const void* at) {
  Block& b = block();
  if (b.running < 0 || bytes == 0) return;
  const auto* p = static_cast<const unsigned char*>(address);
  if (Fiber::current()->owns(p)) return;
  if (in_shared(p)) return touch_shared(b.member(), p, bytes, write, at);
  Region* r = region_of(p);
  if (r == nullptr) {
    const auto* params = static_cast<const unsigned char*>(b.params);
    if (!write && ((p >= params && p < params + b.params_bytes) || is_constant(p))) return;
    std::string near = "no tensor";
    size_t best = 1 << 16;
    for (const Region& o : memory().regions) {
      const size_t behind = static_cast<size_t>(p - (o.begin + o.bytes)), ahead = static_cast<size_t>(o.begin - p);
      if (behind < best) best = behind, near = std::to_string(behind) + " bytes behind the end of " + o.name;
      if (ahead < best) best = ahead, near = std::to_string(ahead) + " bytes before " + o.name;
    }
    fault(std::string("illegal address: ") + (write ? "writes" : "reads") + source_of(at) + " " + near);
  }
  if (p + bytes > r->begin + r->bytes) fault("goes beyond the end of " + r->name + source_of(at));
  if (r->access == Access::kRead) {
    if (write) fault("writes to " + r->name + source_of(at) + ", which is an input");
    return;
  }
  const Actor me = self(at);
  for (size_t i = 0; i < bytes; ++i)
    note(r->shadow[static_cast<size_t>(p - r->begin) + i], write, me, r->name, r->begin, p + i);
}

inline void touch_aligned(const void* p, size_t bytes, bool write, const void* at) {
  if (block().running >= 0 && reinterpret_cast<uintptr_t>(p) % bytes != 0)
    fault("misaligned address: " + std::to_string(bytes) + " bytes" + source_of(at));
  touch(p, bytes, write, at);
}

// ---- what device.cuh calls

inline Where where_of(const char* file, int line) { return {file, line}; }

int thread_id() { return block().running % block().num_threads; }
int block_x() { return block().first.x; }
int block_y() { return block().first.y + block().member(); }
int block_z() { return block().first.z; }

void sync_block(const char* file, int line) { wait(Thread::State::kWaitsForBlock, "sync_block", where_of(file, line)); }

void sync_cluster(const char* file, int line) {
  wait(Thread::State::kWaitsForCluster, "sync_cluster", where_of(file, line));
}

// What stands at the place of `p` in the shared memory of another block of the cluster.
void read_shared(const void* p, void* to, size_t bytes, int member) {
  Block& b = block();
  const void* at = __builtin_return_address(0);
  const auto* own = static_cast<const unsigned char*>(p);
  if (!in_shared(own)) fault("read_shared: not of shared memory" + source_of(at));
  if (member < 0 || member >= b.members) fault("read_shared: no block " + std::to_string(member) + " in the cluster");
  const unsigned char* there = own - own_shared() + b.shared_of(member);
  touch_shared(member, there, bytes, false, at);
  uint32_t& needed = b.needed[static_cast<size_t>(member)];
  needed = std::max(needed, thread().cluster_epoch + 1);
  std::memcpy(to, there, bytes);
}

void sync_warp(const char* file, int line) {
  int none = 0;
  const Where where = where_of(file, line);
  together("sync_warp", where, none, [&](int* const*, int first) {
    Block& b = block();
    const std::string text = where.text();
    b.barriers.insert(text);
    for (int i = first; i < first + kLanes; ++i) b.threads[static_cast<size_t>(i)].warp_epoch += text != b.ignored;
  });
}

// The object that `key` names, at the same place for all threads. Behind what the launch asked for.
void* static_shared(const void* key, size_t bytes) {
  Block& b = block();
  auto [found, fresh] = b.statics.try_emplace(key, b.shared_bytes);
  if (fresh) {
    found->second = (b.shared_bytes + 127) / 128 * 128;
    b.shared_bytes = found->second + bytes;
    if (b.shared_bytes > b.shared_limit) fault("needs " + std::to_string(b.shared_bytes) + " bytes of shared memory");
    for (auto& shadow : memory().shared) shadow.resize(b.shared_bytes);
  }
  return own_shared() + found->second;
}

void* dynamic_shared() { return own_shared(); }

void check_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
    fault("misaligned address: " + std::to_string(bytes) + " bytes" + source_of(__builtin_return_address(0)));
}

inline Shadow& own_shadow(const unsigned char* p) {
  return memory().shared[static_cast<size_t>(block().member())][static_cast<size_t>(p - own_shared())];
}

void copy_async(void* shared, const void* global, int bytes, bool valid) {
  const void* at = __builtin_return_address(0);
  auto* to = static_cast<unsigned char*>(shared);
  if (!in_shared(to)) fault("copy_async: not to shared memory" + source_of(at));
  touch_aligned(to, static_cast<size_t>(bytes), true, at);
  for (int i = 0; i < bytes; ++i) own_shadow(to + i).in_flight = true;
  if (valid) touch_aligned(global, static_cast<size_t>(bytes), false, at);
  thread().copies.push_back({to, valid ? static_cast<const unsigned char*>(global) : nullptr, bytes});
  ++thread().uncommitted;
}

void commit_copies() {
  thread().groups.push_back(thread().uncommitted);
  thread().uncommitted = 0;
}

void wait_copies(int pending, const char* file, int line) {
  Thread& t = thread();
  const std::string where = where_of(file, line).text();
  block().barriers.insert(where);
  if (where == block().ignored) return;
  while (t.groups.size() > static_cast<size_t>(pending)) {
    for (size_t i = 0; i < t.groups.front(); ++i) {
      const Copy& c = t.copies[i];
      for (int j = 0; j < c.bytes; ++j) own_shadow(c.to + j).in_flight = false;
      touch(c.to, static_cast<size_t>(c.bytes), true, __builtin_return_address(0));
      if (c.from != nullptr) {
        std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
      } else {
        std::memset(c.to, 0, static_cast<size_t>(c.bytes));
      }
    }
    t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<std::ptrdiff_t>(t.groups.front()));
    t.groups.erase(t.groups.begin());
  }
}

}  // namespace v4npu::cuda::emulation

#define V4NPU_HOOK(name, bytes, write, checked) \
  void __tsan_##name(void* p) { v4npu::cuda::emulation::checked(p, bytes, write, __builtin_return_address(0)); }
extern "C" {
V4NPU_HOOK(read1, 1, false, touch)
V4NPU_HOOK(read2, 2, false, touch_aligned)
V4NPU_HOOK(read4, 4, false, touch_aligned)
V4NPU_HOOK(read8, 8, false, touch_aligned)
V4NPU_HOOK(read16, 16, false, touch_aligned)
V4NPU_HOOK(write1, 1, true, touch)
V4NPU_HOOK(write2, 2, true, touch_aligned)
V4NPU_HOOK(write4, 4, true, touch_aligned)
V4NPU_HOOK(write8, 8, true, touch_aligned)
V4NPU_HOOK(write16, 16, true, touch_aligned)
V4NPU_HOOK(unaligned_read2, 2, false, touch)
V4NPU_HOOK(unaligned_read4, 4, false, touch)
V4NPU_HOOK(unaligned_read8, 8, false, touch)
V4NPU_HOOK(unaligned_read16, 16, false, touch)
V4NPU_HOOK(unaligned_write2, 2, true, touch)
V4NPU_HOOK(unaligned_write4, 4, true, touch)
V4NPU_HOOK(unaligned_write8, 8, true, touch)
V4NPU_HOOK(unaligned_write16, 16, true, touch)
void __tsan_read_range(void* p, size_t n) { v4npu::cuda::emulation::touch(p, n, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { v4npu::cuda::emulation::touch(p, n, true, __builtin_return_address(0)); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
#undef V4NPU_HOOK

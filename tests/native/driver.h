// What the parts of the driver share: a case of one kernel, its buffers on the heap and exactly as large as asked for.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "v4npu/dtype.h"
#include "v4npu/formats.h"

namespace v4npu::cpu {

inline int threads = 1;  // of parallel_for

namespace test {

constexpr int kThreads = 3;
inline bool failed = false;
inline std::map<std::string, uint64_t> digests;

// Each kernel on every size; kernels.cpp calls them for each dtype of the activations.
void rows(Dtype dtype);
void products(Dtype dtype);
void paged(Dtype dtype);

class Case {
 public:
  Case(const char* name, Dtype dtype) : name_(name), dtype_(dtype) {}

  // n values of the activations' dtype, or of float32.
  const void* values(int64_t n) { return dtype_ == Dtype::kFloat32 ? floats(n) : halves(n); }
  const float* floats(int64_t n) {
    return fill<float>(n, [&] { return value(); });
  }
  const void* halves(int64_t n) {
    return fill<uint16_t>(n, [&] { return bf16_encode(value()); });
  }
  // Codes of no NaN, whose bits machines may choose; bytes of two e2m1; powers of two about 1.
  uint8_t* e4m3(int64_t n) {
    return fill<uint8_t>(n, [&] { return e4m3_encode(value()); });
  }
  uint8_t* e2m1(int64_t n) {
    return fill<uint8_t>(n, [&] { return static_cast<uint8_t>(random_()); });
  }
  uint8_t* scales(int64_t n) {
    return fill<uint8_t>(n, [&] { return static_cast<uint8_t>(kE8m0Bias - 2 + random_() % 4); });
  }
  template <class T = int64_t>
  T* integers(int64_t n, int64_t bound) {
    return fill<T>(n, [&] { return static_cast<T>(static_cast<int64_t>(random_()) % bound); });
  }
  template <class T>
  T* copy(const std::vector<T>& from) {
    auto* p = static_cast<T*>(bytes(static_cast<int64_t>(from.size() * sizeof(T))));
    if (!from.empty()) std::memcpy(p, from.data(), from.size() * sizeof(T));
    return p;
  }
  // 0 .. n-1 in some order.
  std::vector<int32_t> order(int64_t n) {
    std::vector<int32_t> all(static_cast<size_t>(n));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[random_() % i]);
    return all;
  }
  // What the kernel writes; `state` has contents that it reads; `scratch` and `bytes` are not compared.
  template <class T = void>
  T* out(int64_t size) {
    auto* p = static_cast<T*>(bytes(size));
    outputs_.push_back({p, std::vector<unsigned char>(static_cast<size_t>(size), 0xa5)});
    return p;
  }
  void* out_values(int64_t n) { return out(n * (dtype_ == Dtype::kFloat32 ? 4 : 2)); }
  float* state(int64_t n) {
    const float* from = floats(n);
    auto* p = out<float>(n * 4);
    if (n > 0) std::memcpy(outputs_.back().before.data(), from, static_cast<size_t>(n) * 4);
    return p;
  }
  float* scratch(int64_t n) { return static_cast<float*>(bytes(n * 4)); }
  void* bytes(int64_t size) {
    memory_.emplace_back(std::malloc(static_cast<size_t>(size)), &std::free);
    return memory_.back().get();
  }

  // On one thread and, twice, on several: the same bits.
  void run(const std::function<void()>& kernel) {
    int64_t none = 0;
    run(kernel, none, {0, 0});
  }
  // Likewise with `tile`, which a plan chooses, set to the one and to the other.
  void run(const std::function<void()>& kernel, int64_t& tile, const std::pair<int64_t, int64_t>& tiles) {
    std::vector<std::vector<unsigned char>> first;
    for (const int count : {1, kThreads, kThreads}) {
      threads = count;
      tile = first.empty() ? tiles.first : tiles.second;
      for (auto& [p, before] : outputs_) {
        if (!before.empty()) std::memcpy(p, before.data(), before.size());
      }
      kernel();
      for (size_t i = 0; i < outputs_.size(); ++i) {
        const auto* p = static_cast<const unsigned char*>(outputs_[i].p);
        const size_t size = outputs_[i].before.size();
        if (first.size() <= i) {
          first.emplace_back(p, p + size);
          uint64_t& digest = digests[name_];
          for (const unsigned char byte : first.back()) digest = (digest ^ byte) * 0x100000001b3;  // FNV-1a
        } else if (size > 0 && std::memcmp(p, first[i].data(), size) != 0) {
          std::printf("%s: output %zu depends on threads, tiles or the run\n", name_, i);
          failed = true;
        }
      }
    }
  }

 private:
  struct Output {
    void* p;
    std::vector<unsigned char> before;
  };

  template <class T, class Next>
  T* fill(int64_t n, const Next& next) {
    auto* p = static_cast<T*>(bytes(n * static_cast<int64_t>(sizeof(T))));
    for (int64_t i = 0; i < n; ++i) p[i] = next();
    return p;
  }
  // Of unit variance, and the same on every machine, as a library's distributions are not.
  float value() {
    float sum = -2.0f;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(random_() >> 8) * 0x1p-24f;
    return sum * 1.7320508f;
  }

  const char* name_;
  Dtype dtype_;
  std::mt19937 random_{1};
  std::vector<std::unique_ptr<void, void (*)(void*)>> memory_;
  std::vector<Output> outputs_;
};

}  // namespace test
}  // namespace v4npu::cpu

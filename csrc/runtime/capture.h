// Launches of kernels on the calling thread, noted as they happen, to be repeated without the operators around them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "torch/csrc/stable/tensor.h"

namespace v4npu {

// Between `begin` and `end` every kernel that an operator launches is noted with its Params, and every tensor that an
// operator makes is kept alive. What a kernel does depends on its Params and on what lies at the addresses in them, so
// a replay computes what the same launches would compute now. Tensors that operators did not make, such as weights and
// pages, must be kept where they are by their owners.
class Capture {
 public:
  Capture() = default;
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture() { end(); }

  static Capture* current();

  void begin();
  void end();
  int64_t size() const { return static_cast<int64_t>(launches_.size()); }
  bool whole() const { return whole_; }

  // Launches [first, last) again, in order.
  void replay(int64_t first, int64_t last) const;

  void add(std::function<void()> launch) { launches_.push_back(std::move(launch)); }
  void keep(const torch::stable::Tensor& made) { kept_.push_back(made); }
  // What a launch needs for itself is free for the next one; undefined at first.
  torch::stable::Tensor& workspace() { return workspace_; }
  // Called where an operator does anything but launch a kernel: a replay would leave that out.
  void miss() { whole_ = false; }

 private:
  std::vector<std::function<void()>> launches_;
  std::vector<torch::stable::Tensor> kept_;
  torch::stable::Tensor workspace_;
  bool whole_ = true;
};

// Runs a kernel, and notes it for a capture.
template <class Params>
void launch(void (*kernel)(const Params&), const Params& p) {
  if (Capture* capture = Capture::current()) capture->add([kernel, p] { kernel(p); });
  kernel(p);
}

}  // namespace v4npu

// Kernels that do one thing wrong each, and what they would be without it.
#include "../../backends/cuda/device/device.cuh"

struct FaultParams {
  const float* x;  // fp32 [64]
  float* out;      // fp32 [64]
  int64_t n;
};

namespace {
struct Buffer {
  float values[32];
};
struct Pieces {
  alignas(16) float values[128];
};
}  // namespace

using v4npu::cuda::block_x;
using v4npu::cuda::block_y;
using v4npu::cuda::commit_copies;
using v4npu::cuda::copy_async;
using v4npu::cuda::load_as;
using v4npu::cuda::read_shared;
using v4npu::cuda::shared;
using v4npu::cuda::shuffle_xor;
using v4npu::cuda::sync_block;
using v4npu::cuda::sync_cluster;
using v4npu::cuda::sync_warp;
using v4npu::cuda::thread_id;
using v4npu::cuda::u32x4;
using v4npu::cuda::wait_copies;

V4NPU_KERNEL(copies, 32, FaultParams) { p.out[thread_id()] = p.x[thread_id()]; }
V4NPU_KERNEL(reads_behind, 32, FaultParams) { p.out[thread_id()] = p.x[thread_id() + p.n]; }
V4NPU_KERNEL(writes_behind, 32, FaultParams) { p.out[thread_id() + p.n] = 1.0f; }
V4NPU_KERNEL(writes_an_input, 32, FaultParams) { const_cast<float*>(p.x)[thread_id()] = 1.0f; }
V4NPU_KERNEL(reads_an_output, 32, FaultParams) { p.out[thread_id()] = p.out[thread_id()] + 1.0f; }
V4NPU_KERNEL(misaligned, 32, FaultParams) { p.out[thread_id()] = v4npu::bits_float(load_as<u32x4>(p.x + 1).x); }
V4NPU_KERNEL(reads_unwritten_shared_memory, 32, FaultParams) {
  p.out[thread_id()] = shared<Buffer>().values[thread_id()];
}

// Threads hand a value on through shared memory; `n` is 32.
V4NPU_KERNEL(hands_on, 64, FaultParams) {
  auto& buffer = shared<Buffer>();
  if (thread_id() < 32) buffer.values[thread_id()] = p.x[thread_id()];
  sync_block();
  if (thread_id() >= 32) p.out[thread_id()] = buffer.values[thread_id() - p.n];
}
V4NPU_KERNEL(hands_on_without_barrier, 64, FaultParams) {
  auto& buffer = shared<Buffer>();
  if (thread_id() < 32) buffer.values[thread_id()] = p.x[thread_id()];
  if (thread_id() >= 32) p.out[thread_id()] = buffer.values[thread_id() - p.n];
}
V4NPU_KERNEL(hands_on_with_barriers_of_warps, 64, FaultParams) {
  auto& buffer = shared<Buffer>();
  if (thread_id() < 32) buffer.values[thread_id()] = p.x[thread_id()];
  sync_warp();
  if (thread_id() >= 32) p.out[thread_id()] = buffer.values[thread_id() - p.n];
}
V4NPU_KERNEL(overwrites_what_is_read, 64, FaultParams) {
  auto& buffer = shared<Buffer>();
  if (thread_id() < 32) buffer.values[thread_id()] = p.x[thread_id()];
  sync_block();
  if (thread_id() >= 32) p.out[thread_id()] = buffer.values[thread_id() - p.n];
  if (thread_id() < 32) buffer.values[thread_id()] = 0.0f;
}
V4NPU_KERNEL(blocks_write_one_place, 32, FaultParams) {
  if (thread_id() == 0) p.out[0] = static_cast<float>(block_x());
}
V4NPU_KERNEL(barrier_of_some, 64, FaultParams) {
  if (thread_id() < 40) sync_block();
  p.out[thread_id()] = 1.0f;
}
V4NPU_KERNEL(two_barriers, 64, FaultParams) {
  if (thread_id() < 32) {
    sync_block();
  } else {
    sync_block();
  }
  p.out[thread_id()] = 1.0f;
}
V4NPU_KERNEL(shuffle_of_some, 32, FaultParams) {
  uint32_t v = 0;
  if (thread_id() != 7) v = shuffle_xor(1, 1);
  p.out[thread_id()] = static_cast<float>(v);
}
V4NPU_KERNEL(copies_in_the_background, 32, FaultParams) {
  auto& pieces = shared<Pieces>();
  copy_async<16>(pieces.values + 4 * thread_id(), p.x + 4 * (thread_id() % 16), thread_id() < 16);
  commit_copies();
  wait_copies<0>();
  sync_block();
  p.out[thread_id()] = pieces.values[thread_id()];
}
V4NPU_KERNEL(copies_without_waiting, 32, FaultParams) {
  auto& pieces = shared<Pieces>();
  copy_async<16>(pieces.values + 4 * thread_id(), p.x + 4 * (thread_id() % 16), true);
  commit_copies();
  wait_copies<1>();
  sync_block();
  p.out[thread_id()] = pieces.values[thread_id()];
}
V4NPU_KERNEL(copies_without_barrier, 32, FaultParams) {
  auto& pieces = shared<Pieces>();
  copy_async<16>(pieces.values + 4 * thread_id(), p.x + 4 * (thread_id() % 16), true);
  commit_copies();
  wait_copies<0>();
  p.out[thread_id()] = pieces.values[thread_id()];
}
V4NPU_KERNEL(waits_for_what_is_not_committed, 32, FaultParams) {
  auto& pieces = shared<Pieces>();
  copy_async<16>(pieces.values + 4 * thread_id(), p.x + 4 * (thread_id() % 16), true);
  wait_copies<0>();
  sync_block();
  p.out[thread_id()] = pieces.values[thread_id()];
}
V4NPU_KERNEL(copies_over_what_is_read, 32, FaultParams) {
  auto& pieces = shared<Pieces>();
  for (int round = 0; round < 2; ++round) {
    copy_async<16>(pieces.values + 4 * thread_id(), p.x + 4 * (thread_id() % 16), true);
    commit_copies();
    wait_copies<0>();
    sync_block();
    p.out[thread_id()] = pieces.values[thread_id()];
  }
}
V4NPU_KERNEL(copies_to_a_crooked_place, 32, FaultParams) {
  auto& pieces = shared<Pieces>();
  copy_async<16>(pieces.values + 2 * thread_id(), p.x, true);
}

// Two blocks hand values on through their shared memory.
#define V4NPU_FAULT_OF_A_CLUSTER(name, before, after, member)             \
  V4NPU_CLUSTER_KERNEL(name, 32, 2, FaultParams) {                        \
    auto& buffer = shared<Buffer>();                                      \
    buffer.values[thread_id()] = p.x[thread_id() + 32 * block_y()];       \
    before;                                                               \
    const float other = read_shared(&buffer.values[thread_id()], member); \
    after;                                                                \
    p.out[thread_id() + 32 * block_y()] = other;                          \
  }
V4NPU_FAULT_OF_A_CLUSTER(hands_on_in_a_cluster, sync_cluster(), sync_cluster(), 1 - block_y())
V4NPU_FAULT_OF_A_CLUSTER(reads_a_block_without_barrier, sync_block(), sync_cluster(), 1 - block_y())
V4NPU_FAULT_OF_A_CLUSTER(ends_while_it_is_read, sync_cluster(), sync_block(), 1 - block_y())
V4NPU_FAULT_OF_A_CLUSTER(overwrites_what_a_block_reads, sync_cluster(),
                         (sync_block(), buffer.values[thread_id()] = 0.0f, sync_cluster()), 1 - block_y())
V4NPU_FAULT_OF_A_CLUSTER(reads_a_block_that_is_not, sync_cluster(), sync_cluster(), 2)
V4NPU_FAULT_OF_A_CLUSTER(barrier_of_one_block, sync_cluster(), (block_y() == 0 ? sync_cluster() : sync_block()),
                         1 - block_y())

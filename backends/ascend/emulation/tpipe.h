// TPipe, TQue and TBuf: buffers on the chip, and queues that order the pipes which fill and drain them.
//
// A position says in which memory a buffer lies and which pipes fill and drain it: VECIN is filled by MTE2 and drained
// by V, VECOUT by V and MTE3, A1 and B1 (L1) by MTE2 and MTE1, A2 (L0A) and B2 (L0B) by MTE1 and M, CO1 (L0C) by M and
// FIX. EnQue -> DeQue is a flag from the first pipe to the second, FreeTensor -> AllocTensor one back; each holds an
// event id meanwhile, as the flags of the kernel itself do.
#pragma once

#include <deque>

#include "sync.h"
#include "tensor.h"

namespace v4npu::emulation {

struct PositionTraits {
  const char* name;
  AscendC::HardEvent fill, drain;  // EnQue -> DeQue, FreeTensor -> AllocTensor
};

constexpr PositionTraits traits_of(AscendC::TPosition position) {
  using AscendC::HardEvent, AscendC::TPosition;
  switch (position) {
    case TPosition::A1: return {"A1", HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2};
    case TPosition::B1: return {"B1", HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2};
    case TPosition::A2: return {"A2", HardEvent::MTE1_M, HardEvent::M_MTE1};
    case TPosition::B2: return {"B2", HardEvent::MTE1_M, HardEvent::M_MTE1};
    case TPosition::CO1: return {"CO1", HardEvent::M_FIX, HardEvent::FIX_M};
    case TPosition::VECOUT: return {"VECOUT", HardEvent::V_MTE3, HardEvent::MTE3_V};
    default: return {"VECIN", HardEvent::MTE2_V, HardEvent::V_MTE2};
  }
}

struct QueueBuffer {
  uint64_t address, bytes;
  enum class State { Free, Allocated, Queued, Dequeued } state = State::Free;
  Where at{};         // of the last change
  Clock clock{};      // of the flag that is on its way
  int event_id = -1;  // held by that flag
};

// The state of a queue, on its own so that the check at the end of the kernel outlives the kernel's objects.
class QueueState {
 public:
  QueueState(AscendC::TPosition position, int depth) : position_(position), depth_(depth) {
    fill_ = static_cast<int>(traits_of(position).fill);
    drain_ = static_cast<int>(traits_of(position).drain);
  }

  void add_buffers(int num, uint32_t len, const Where& at) {
    Core& core = Core::current();
    const uint64_t bytes = whole_blocks(len);
    label_ = std::string("the ") + traits_of(position_).name + " queue of " + line_of(at);
    for (int i = 0; i < num; ++i) {
      buffers_.push_back(
          {core.allocate(space_at(position_), bytes, label_ + ", buffer " + std::to_string(i), at), bytes});
    }
  }

  QueueBuffer& take(const Where& at) {
    for (size_t i = 0; i < buffers_.size(); ++i) {
      QueueBuffer& buffer = buffers_[(next_ + i) % buffers_.size()];
      if (buffer.state != QueueBuffer::State::Free) continue;
      next_ = (next_ + i + 1) % buffers_.size();
      land(buffer, drain_, at);
      change(buffer, QueueBuffer::State::Allocated, at);
      Core::current().poison_local(buffer.address, buffer.bytes);
      return buffer;
    }
    fail("AllocTensor", at,
         "all " + std::to_string(buffers_.size()) + " buffers are in use, one since " +
             (buffers_.empty() ? "never" : line_of(buffers_[0].at)));
  }

  void put(uint64_t address, const Where& at) {
    QueueBuffer& buffer = find(address, "EnQue", at);
    if (buffer.state != QueueBuffer::State::Allocated) fail("EnQue", at, "the tensor is not freshly allocated");
    if (static_cast<int>(queued_.size()) >= depth_) {
      fail("EnQue", at, "the queue's depth of " + std::to_string(depth_) + " is exceeded");
    }
    depart(buffer, fill_, at);
    change(buffer, QueueBuffer::State::Queued, at);
    queued_.push_back(&buffer);
  }

  QueueBuffer& get(const Where& at) {
    if (queued_.empty()) fail("DeQue", at, "deadlock, the queue is empty");
    QueueBuffer& buffer = *queued_.front();
    queued_.pop_front();
    land(buffer, fill_, at);
    change(buffer, QueueBuffer::State::Dequeued, at);
    return buffer;
  }

  void free(uint64_t address, const Where& at) {
    QueueBuffer& buffer = find(address, "FreeTensor", at);
    if (buffer.state == QueueBuffer::State::Free) fail("FreeTensor", at, "already freed at " + line_of(buffer.at));
    if (buffer.state == QueueBuffer::State::Queued) fail("FreeTensor", at, "the tensor is still queued");
    depart(buffer, drain_, at);
    change(buffer, QueueBuffer::State::Free, at);
  }

  void finish() const {
    for (const QueueBuffer& buffer : buffers_) {
      if (buffer.state != QueueBuffer::State::Free) {
        fail("end of the kernel", buffer.at, "a tensor taken or queued there was never freed");
      }
    }
  }

 private:
  void depart(QueueBuffer& buffer, int event, const Where& at) {
    Core& core = Core::current();
    buffer.event_id = core.take_event(event, kEvents[event].name, at);
    buffer.clock = core.after(kEvents[event].from);
  }
  void land(QueueBuffer& buffer, int event, const Where& at) {
    if (buffer.event_id < 0) return;  // a buffer's first AllocTensor waits for nothing
    Core::current().release_event(event, buffer.event_id);
    Core::current().join(kEvents[event].to, buffer.clock, at);
    buffer.event_id = -1;
  }
  static void change(QueueBuffer& buffer, QueueBuffer::State state, const Where& at) {
    buffer.state = state;
    buffer.at = at;
  }

  QueueBuffer& find(uint64_t address, const char* call, const Where& at) {
    for (QueueBuffer& buffer : buffers_) {
      if (buffer.address == address) return buffer;
    }
    fail(call, at, "the tensor is not one of this queue");
  }

  [[noreturn]] void fail(const char* call, const Where& at, const std::string& why) const {
    Core::current().fail(std::string(call) + " at " + line_of(at) + ", " + label_ + ": " + why);
  }

  AscendC::TPosition position_;
  int depth_, fill_ = 0, drain_ = 0;
  std::deque<QueueBuffer> buffers_;
  std::deque<QueueBuffer*> queued_;
  size_t next_ = 0;
  std::string label_ = "a queue without InitBuffer";
};

}  // namespace v4npu::emulation

namespace AscendC {

template <TPosition pos, int32_t depth>
class TQue {
  static_assert(pos != TPosition::GM && pos != TPosition::VECCALC, "no queue stands at this position");
  static_assert(depth > 0, "depth 0 is the in-place form, which is not emulated");
  using Where = v4npu::emulation::Where;

 public:
  template <typename T>
  LocalTensor<T> AllocTensor(const Where& at = Where::current()) {
    return tensor<T>(state_->take(at));
  }
  template <typename T>
  bool EnQue(const LocalTensor<T>& tensor, const Where& at = Where::current()) {
    state_->put(tensor.GetPhyAddr(), at);
    return true;
  }
  template <typename T>
  LocalTensor<T> DeQue(const Where& at = Where::current()) {
    return tensor<T>(state_->get(at));
  }
  template <typename T>
  void FreeTensor(LocalTensor<T>& tensor, const Where& at = Where::current()) {
    state_->free(tensor.GetPhyAddr(), at);
  }

 private:
  friend class TPipe;
  template <typename T>
  static LocalTensor<T> tensor(const v4npu::emulation::QueueBuffer& buffer) {
    return LocalTensor<T>(buffer.address, buffer.address + buffer.bytes, pos);
  }

  std::shared_ptr<v4npu::emulation::QueueState> state_ = std::make_shared<v4npu::emulation::QueueState>(pos, depth);
};

template <TPosition pos>
class TBuf {
 public:
  template <typename T>
  LocalTensor<T> Get() {
    return LocalTensor<T>(address_, address_ + bytes_, pos);
  }

 private:
  friend class TPipe;
  uint64_t address_ = 0, bytes_ = 0;
};

class TPipe {
  using Where = v4npu::emulation::Where;
  using Core = v4npu::emulation::Core;

 public:
  // On a cube core it keeps ids 0 to 2 of M_MTE1, whose flags it sets itself (kernel_tpipe_impl.h of the public
  // headers).
  explicit TPipe(const Where& at = Where::current()) {
    for (int i = 0; Core::current().is_cube() && i < 3; ++i) {
      Core::current().take_event(static_cast<int>(HardEvent::M_MTE1), "M_MTE1", at);
    }
  }

  template <TPosition pos, int32_t depth>
  bool InitBuffer(TQue<pos, depth>& que, uint8_t num, uint32_t len, const Where& at = Where::current()) {
    que.state_->add_buffers(num, len, at);
    Core::current().at_end([state = que.state_] { state->finish(); });
    return true;
  }
  template <TPosition pos>
  bool InitBuffer(TBuf<pos>& buf, uint32_t len, const Where& at = Where::current()) {
    buf.address_ = Core::current().allocate(v4npu::emulation::space_at(pos), len,
                                            "the buffer of " + v4npu::emulation::line_of(at), at);
    buf.bytes_ = v4npu::emulation::whole_blocks(len);
    return true;
  }

  // An id that is free now, for a flag that is waited for before anything else takes one.
  TEventID FetchEventID(HardEvent event, const Where& at = Where::current()) {
    const char* name = v4npu::emulation::pipes_of(event).name;
    return static_cast<TEventID>(Core::current().free_event(static_cast<int>(event), name, at));
  }
};

}  // namespace AscendC

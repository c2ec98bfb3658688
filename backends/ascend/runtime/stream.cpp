// Streams and events.
//
// After a task has failed, a stream skips what follows until a synchronisation has reported the failure.
#include "stream.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "error.h"

namespace v4npu::runtime {
namespace {

using Clock = std::chrono::steady_clock;

class Stream {
 public:
  Stream() : worker_([this] { work(); }) {}
  ~Stream() {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }

  // always: even after a failure, as others wait for it. No such task can be captured: only events have them.
  void push(std::function<void()> run, bool always = false) {
    {
      const std::lock_guard lock(mutex_);
      if (graph_ != nullptr) {
        require(!always, "events of a stream that is being captured are not emulated", ACL_ERROR_RT_EVENT_CAPTURED);
        graph_->push_back(std::move(run));
        return;
      }
      tasks_.push_back({std::move(run), always});
    }
    changed_.notify_all();
  }

  bool idle() {
    const std::lock_guard lock(mutex_);
    return tasks_.empty();
  }

  void synchronize() {
    std::unique_lock lock(mutex_);
    require(graph_ == nullptr, "the stream is being captured: nothing of it runs now", ACL_ERROR_RT_STREAM_CAPTURED);
    changed_.wait(lock, [this] { return tasks_.empty(); });
    if (error_) {
      const Error error = *error_;
      error_.reset();
      throw error;
    }
  }

  void capture(Graph* graph) {
    const std::lock_guard lock(mutex_);
    require(graph == nullptr || graph_ == nullptr, "the stream is being captured", ACL_ERROR_RT_STREAM_CAPTURED);
    graph_ = graph;
  }
  Graph* graph() {
    const std::lock_guard lock(mutex_);
    return graph_;
  }

  int32_t id = 0;

 private:
  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      Task task = tasks_.front();  // stays in front while it runs: the stream is not idle
      const bool skipped = error_.has_value() && !task.always;
      lock.unlock();
      std::optional<Error> error;
      try {
        if (!skipped) task.run();
      } catch (const Error& caught) {
        error = caught;
      } catch (const std::exception& caught) {
        error = Error(ACL_ERROR_RT_AICORE_EXCEPTION, caught.what());
      }
      task.run = nullptr;
      lock.lock();
      if (error) error_ = error;
      tasks_.pop_front();
      lock.unlock();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  struct Task {
    std::function<void()> run;
    bool always;
  };
  std::deque<Task> tasks_;
  std::optional<Error> error_;
  Graph* graph_ = nullptr;  // not null while the stream is being captured
  bool closing_ = false;
  std::thread worker_;
};

// Streams that the process never destroyed are left alone at its end, and so is this list.
struct Streams {
  std::mutex mutex;
  std::set<Stream*> all;
  int32_t next_id = 0;

  Stream* create() {
    auto* stream = new Stream;
    const std::lock_guard lock(mutex);
    stream->id = next_id++;
    all.insert(stream);
    return stream;
  }
};
Streams& streams() {
  static auto* list = new Streams;
  return *list;
}

Stream& stream_of(StreamHandle handle) {
  static Stream* fallback = streams().create();
  auto* stream = handle == nullptr ? fallback : static_cast<Stream*>(handle);
  const std::lock_guard lock(streams().mutex);
  require(streams().all.count(stream) == 1, "unknown or destroyed stream");
  return *stream;
}

// Which recording of an event is asked for and which is done; shared by the tasks that mention it.
struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0, done = 0;
  Clock::time_point at;

  void finish(uint64_t recording) {
    {
      const std::lock_guard lock(mutex);
      if (recording > done) done = recording;
      at = Clock::now();
    }
    changed.notify_all();
  }
  uint64_t last() {
    const std::lock_guard lock(mutex);
    return recorded;
  }
  void wait(uint64_t recording) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done >= recording; });
  }
  bool complete() {
    const std::lock_guard lock(mutex);
    return done >= recorded;
  }
};
using Event = std::shared_ptr<EventState>;

Event& event_of(EventHandle handle) {
  require(handle != nullptr, "event must not be null");
  return *static_cast<Event*>(handle);
}

}  // namespace

void enqueue(StreamHandle stream, std::function<void()> task) { stream_of(stream).push(std::move(task)); }

void synchronize(StreamHandle stream) { stream_of(stream).synchronize(); }

void synchronize_all() {
  std::set<Stream*> all;
  {
    const std::lock_guard lock(streams().mutex);
    all = streams().all;
  }
  for (Stream* stream : all) stream->synchronize();
}

void begin_capture(StreamHandle stream, Graph* graph) { stream_of(stream).capture(graph); }

Graph* captured(StreamHandle stream) { return stream_of(stream).graph(); }

void end_capture(StreamHandle stream) { stream_of(stream).capture(nullptr); }

void require_no_capture(const char* what) {
  const std::lock_guard lock(streams().mutex);
  for (Stream* stream : streams().all)
    require(stream->graph() == nullptr, std::string(what) + " waits for the device while a stream is being captured",
            ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT);
}

}  // namespace v4npu::runtime

using namespace v4npu::runtime;

ACL_API Status aclrtCreateStream(StreamHandle* stream) {
  return guarded("aclrtCreateStream", [&] { *stream = streams().create(); });
}
ACL_API Status aclrtCreateStreamWithConfig(StreamHandle* stream, uint32_t, uint32_t) {
  return aclrtCreateStream(stream);
}

ACL_API Status aclrtDestroyStream(StreamHandle handle) {
  return guarded("aclrtDestroyStream", [&] {
    Stream* stream = &stream_of(handle);
    {
      const std::lock_guard lock(streams().mutex);
      streams().all.erase(stream);
    }
    delete stream;  // once its tasks are done
  });
}
ACL_API Status aclrtDestroyStreamForce(StreamHandle handle) { return aclrtDestroyStream(handle); }

ACL_API Status aclrtSynchronizeStream(StreamHandle handle) {
  return guarded("aclrtSynchronizeStream", [&] { synchronize(handle); });
}
ACL_API Status aclrtSynchronizeStreamWithTimeout(StreamHandle handle, int32_t) {
  return aclrtSynchronizeStream(handle);
}
ACL_API Status aclrtSynchronizeDevice() {
  return guarded("aclrtSynchronizeDevice", [] { synchronize_all(); });
}
ACL_API Status aclrtSynchronizeDeviceWithTimeout(int32_t) { return aclrtSynchronizeDevice(); }

ACL_API Status aclrtStreamQuery(StreamHandle handle, int* status) {
  return guarded("aclrtStreamQuery", [&] {
    *status = stream_of(handle).idle() ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
  });
}
ACL_API Status aclrtStreamGetId(StreamHandle handle, int32_t* id) {
  return guarded("aclrtStreamGetId", [&] { *id = stream_of(handle).id; });
}

// Whether work goes on after an error is not a choice here: see above. No attribute changes what a stream does.
ACL_API Status aclrtSetStreamFailureMode(StreamHandle, uint64_t) { return ACL_SUCCESS; }
ACL_API Status aclrtSetStreamAttribute(StreamHandle, int, void*) { return ACL_SUCCESS; }

ACL_API Status aclrtLaunchHostFunc(StreamHandle stream, void (*function)(void*), void* argument) {
  return guarded("aclrtLaunchHostFunc", [&] { enqueue(stream, [=] { function(argument); }); });
}

ACL_API Status aclrtCreateEventExWithFlag(EventHandle* event, uint32_t) {
  *event = new Event(std::make_shared<EventState>());
  return ACL_SUCCESS;
}
ACL_API Status aclrtCreateEventWithFlag(EventHandle* event, uint32_t flag) {
  return aclrtCreateEventExWithFlag(event, flag);
}
ACL_API Status aclrtDestroyEvent(EventHandle event) {
  return guarded("aclrtDestroyEvent", [&] { delete &event_of(event); });
}

ACL_API Status aclrtRecordEvent(EventHandle handle, StreamHandle stream) {
  return guarded("aclrtRecordEvent", [&] {
    Event event = event_of(handle);
    uint64_t recording = 0;
    {
      const std::lock_guard lock(event->mutex);
      recording = ++event->recorded;
    }
    stream_of(stream).push([event, recording] { event->finish(recording); }, true);
  });
}
ACL_API Status aclrtResetEvent(EventHandle, StreamHandle) { return ACL_SUCCESS; }  // a new recording takes its place

ACL_API Status aclrtStreamWaitEvent(StreamHandle stream, EventHandle handle) {
  return guarded("aclrtStreamWaitEvent", [&] {
    Event event = event_of(handle);
    const uint64_t recording = event->last();
    stream_of(stream).push([event, recording] { event->wait(recording); }, true);
  });
}
ACL_API Status aclrtSynchronizeEvent(EventHandle handle) {
  return guarded("aclrtSynchronizeEvent", [&] {
    require_no_capture("an event");
    event_of(handle)->wait(event_of(handle)->last());
  });
}
ACL_API Status aclrtQueryEventStatus(EventHandle handle, int* status) {
  return guarded("aclrtQueryEventStatus", [&] {
    *status = event_of(handle)->complete() ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  });
}
ACL_API Status aclrtQueryEventWaitStatus(EventHandle handle, int* status) {
  return guarded("aclrtQueryEventWaitStatus", [&] {
    *status = event_of(handle)->complete() ? ACL_EVENT_WAIT_STATUS_COMPLETE : ACL_EVENT_WAIT_STATUS_NOT_READY;
  });
}

// Time on the host: says nothing about a chip.
ACL_API Status aclrtEventElapsedTime(float* ms, EventHandle start, EventHandle end) {
  return guarded("aclrtEventElapsedTime", [&] {
    const Event first = event_of(start), last = event_of(end);
    require(first->last() > 0 && last->last() > 0, "an event was never recorded");
    first->wait(first->last());
    last->wait(last->last());
    *ms = std::chrono::duration<float, std::milli>(last->at - first->at).count();
  });
}

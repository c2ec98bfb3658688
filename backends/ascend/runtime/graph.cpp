// Graphs (aclmdlRI): the tasks of one captured stream, with the arguments that they were given then, to be run again on
// whatever the memory holds by that time. One stream to a graph, no events in it, nothing of it updated.
#include <memory>
#include <mutex>
#include <set>

#include "error.h"
#include "stream.h"

using namespace v4npu::runtime;

namespace {

std::mutex mutex;

// Those that nobody destroyed are left alone at the end of the process, as its streams are.
std::set<Graph*>& graphs() {
  static auto* list = new std::set<Graph*>;
  return *list;
}

Graph* known(void* handle) {
  const std::lock_guard lock(mutex);
  require(graphs().count(static_cast<Graph*>(handle)) == 1, "unknown or destroyed graph");
  return static_cast<Graph*>(handle);
}

}  // namespace

// Every call that waits is refused, as in the mode that forbids most.
ACL_API Status aclmdlRICaptureBegin(StreamHandle stream, int) {
  return guarded("aclmdlRICaptureBegin", [&] {
    require(stream != nullptr, "the default stream cannot be captured");
    auto graph = std::make_unique<Graph>();
    begin_capture(stream, graph.get());
    const std::lock_guard lock(mutex);
    graphs().insert(graph.release());
  });
}

ACL_API Status aclmdlRICaptureGetInfo(StreamHandle stream, CaptureStatus* status, void** graph) {
  return guarded("aclmdlRICaptureGetInfo", [&] {
    Graph* found = captured(stream);
    *status = found == nullptr ? ACL_MODEL_RI_CAPTURE_STATUS_NONE : ACL_MODEL_RI_CAPTURE_STATUS_ACTIVE;
    if (graph != nullptr) *graph = found;
  });
}

ACL_API Status aclmdlRICaptureEnd(StreamHandle stream, void** graph) {
  return guarded("aclmdlRICaptureEnd", [&] {
    *graph = captured(stream);
    require(*graph != nullptr, "the stream is not being captured", ACL_ERROR_RT_STREAM_NOT_CAPTURED);
    end_capture(stream);
  });
}

ACL_API Status aclmdlRICaptureThreadExchangeMode(int*) { return ACL_SUCCESS; }

ACL_API Status aclmdlRIExecuteAsync(void* graph, StreamHandle stream) {
  return guarded("aclmdlRIExecuteAsync", [&] {
    for (const auto& task : *known(graph)) enqueue(stream, task);
  });
}

ACL_API Status aclmdlRIDestroy(void* graph) {
  return guarded("aclmdlRIDestroy", [&] {
    const std::unique_ptr<Graph> owned(known(graph));
    const std::lock_guard lock(mutex);
    graphs().erase(owned.get());
  });
}

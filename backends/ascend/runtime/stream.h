// Streams: tasks in order, on a thread of their own, so that a missing synchronisation shows as it would on a device.
#pragma once

#include <functional>
#include <vector>

#include "acl.h"

namespace v4npu::runtime {

// Appends a task to a stream; null is the default stream. What a task throws is kept for the next synchronisation.
__attribute__((visibility("default"))) void enqueue(StreamHandle stream, std::function<void()> task);

// Waits for a stream; throws the error that it kept.
__attribute__((visibility("default"))) void synchronize(StreamHandle stream);

// Waits for every stream; throws the first error that one of them kept.
void synchronize_all();

// While a stream is being captured its tasks go to the graph and do not run; to wait for it is an error.
using Graph = std::vector<std::function<void()>>;
void begin_capture(StreamHandle stream, Graph* graph);
Graph* captured(StreamHandle stream);  // null if it is not
void end_capture(StreamHandle stream);

// Throws Error while any stream is being captured: `what` waits for the device.
void require_no_capture(const char* what);

}  // namespace v4npu::runtime

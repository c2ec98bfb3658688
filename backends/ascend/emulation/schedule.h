// Whose turn it is among the cores that run together.
//
// Each core runs on a thread of its own, one at a time: a core runs until it waits for what is not there yet, or ends;
// then the first in order that can go on does. So runs repeat exactly, a block ends before the next one starts unless
// it waits for that one, and a deadlock is certain and named, not timed out.
#pragma once

#include <algorithm>
#include <deque>
#include <exception>
#include <functional>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "fault.h"

namespace v4npu::emulation {

class Schedule {
 public:
  // label: how a deadlock's message begins; name(core): what it calls a core.
  Schedule(int num_cores, std::string label, std::function<std::string(int)> name)
      : cores_(num_cores), label_(std::move(label)), name_(std::move(name)) {}

  // Runs body(core) for every core to its end; throws what the first core to fail threw.
  void run(const std::function<void(int)>& body) {
    if (cores_.size() == 1) {
      run_core(0, body);
    } else {
      cores_[0].turn.release();
      std::vector<std::thread> threads;
      for (size_t core = 0; core < cores_.size(); ++core) {
        threads.emplace_back([this, core, &body] {
          cores_[core].turn.acquire();
          run_core(static_cast<int>(core), body);
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
    if (failure_) std::rethrow_exception(failure_);
  }

  // Lets others run until ready(). text(): what this core waits for, and whom.
  void wait(int core, std::function<bool()> ready, std::function<std::string()> text) {
    if (ready()) return;
    cores_[core].ready = std::move(ready);
    cores_[core].text = std::move(text);
    pass_on();
    if (cores_.size() > 1) cores_[core].turn.acquire();
    if (stopped_) throw Stopped{};
    cores_[core].ready = nullptr;
  }

 private:
  struct Waiter {
    std::binary_semaphore turn{0};
    std::function<bool()> ready;  // empty: can run
    std::function<std::string()> text;
    bool ended = false;

    bool can_run() const { return !ended && (!ready || ready()); }
  };
  struct Stopped {};  // unwinds the other cores after a fault

  void run_core(int core, const std::function<void(int)>& body) {
    try {
      if (!stopped_) body(core);
    } catch (const Stopped&) {
    } catch (...) {
      failure_ = std::current_exception();
    }
    cores_[core].ended = true;
    if (!stopped_) pass_on();
  }

  // Gives the turn to the first core that can run. If there is none but one still waits, or if one has failed, all
  // stop.
  void pass_on() {
    const auto next = std::find_if(cores_.begin(), cores_.end(), [](const Waiter& core) { return core.can_run(); });
    const bool waiting = std::any_of(cores_.begin(), cores_.end(), [](const Waiter& core) { return !core.ended; });
    if (failure_ == nullptr && next == cores_.end() && waiting) {
      failure_ = std::make_exception_ptr(Fault(deadlock()));
    }
    stopped_ = failure_ != nullptr;
    if (stopped_) {
      for (Waiter& core : cores_) core.turn.release();
    } else if (next != cores_.end()) {
      next->turn.release();
    }
  }

  // Those that wait, then those that have ended; of many the first few.
  std::string deadlock() const {
    std::vector<std::string> texts;
    for (const bool ended : {false, true}) {
      for (size_t core = 0; core < cores_.size(); ++core) {
        if (cores_[core].ended != ended) continue;
        texts.push_back(name_(static_cast<int>(core)) + " " + (ended ? "has ended" : cores_[core].text()));
      }
    }
    return label_ + "deadlock: " + listed(texts, 6);
  }

  std::deque<Waiter> cores_;  // all of it belongs to the core whose turn it is
  std::string label_;
  std::function<std::string(int)> name_;
  std::exception_ptr failure_;
  bool stopped_ = false;
};

}  // namespace v4npu::emulation

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "ssm/core/parallel.hpp"

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#include <immintrin.h>
#endif

SSM_NAMESPACE_BEGIN

// A pool of std::threads behind a Parallel. Opt-in; it owns its threads and joins them when it is
// destroyed, which must not happen during a call.
//
//   ssm::ThreadPool pool(4);
//   ssm::Cpu backend{pool.parallel()};
//
// The calling thread works too, so a pool of n runs n - 1 threads of its own. A call allocates
// nothing. Tasks are handed out one by one, and the caller returns when the last one has returned:
// a worker that the operating system has not woken yet delays nobody. Between calls a worker spins
// for `spin` and then sleeps. Calls from several threads take turns; a call from inside a task (of
// any pool) runs inline on that task's thread.
class ThreadPool {
 public:
  // threads >= 1 counts the calling thread; 0 means one per hardware thread. Spinning costs a core
  // that others might want but keeps the start of the next call below a microsecond; 50 us cover
  // the gaps between the operations of one decoding step.
  explicit ThreadPool(int threads = 0,
                      std::chrono::microseconds spin = std::chrono::microseconds(50))
      : threads_(threads <= 0            ? hardware_threads()
                 : threads < kMaxThreads ? threads
                                         : kMaxThreads),
        spin_(spin),
        workers_(*this) {
    workers_.start();
  }

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const noexcept { return threads_; }

  // Refers to this pool, which must outlive its use.
  Parallel parallel() noexcept {
    Parallel parallel;
    if (threads_ > 1) {
      parallel.run = [](void* context, index_t tasks, Parallel::Task task, void* argument) {
        static_cast<ThreadPool*>(context)->run(tasks, task, argument);
      };
      parallel.context = this;
      parallel.threads = threads_;
    }
    return parallel;
  }

 private:
  // One word says whether a job may be joined and by how many workers it has been:
  //   bit 0: open; bits 1 to 15: workers inside; bits 16 to 63: the job's number.
  // A worker joins by a compare-and-swap on an open gate and only then reads the job's fields; the
  // caller closes the gate and waits for it to empty before it touches them again.
  static constexpr std::uint64_t kOpen = 1;
  static constexpr std::uint64_t kInside = 2;
  static constexpr std::uint64_t kInsideMask = 0xfffe;
  static constexpr int kJobShift = 16;
  static constexpr int kMaxThreads = 0x7fff;

  static int hardware_threads() {
    const unsigned n = std::thread::hardware_concurrency();
    return n == 0 ? 1 : n < static_cast<unsigned>(kMaxThreads) ? static_cast<int>(n) : kMaxThreads;
  }

  // The threads, stopped and joined however far start() came.
  class Workers {
   public:
    explicit Workers(ThreadPool& pool)
        : pool_(pool),
          count_(static_cast<std::size_t>(pool.threads_ - 1)),
          threads_(new std::thread[count_]) {}
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;
    ~Workers() {
      {
        const std::lock_guard<std::mutex> lock(pool_.sleep_mutex_);
        pool_.stop_.store(true);
      }
      pool_.wake_.notify_all();
      for (std::size_t i = 0; i < count_; ++i) {
        if (threads_[i].joinable()) threads_[i].join();
      }
    }
    void start() {
      for (std::size_t i = 0; i < count_; ++i) {
        threads_[i] = std::thread([pool = &pool_] { pool->work(); });
      }
    }

   private:
    ThreadPool& pool_;
    const std::size_t count_;
    std::unique_ptr<std::thread[]> threads_;
  };

  static bool& inside_task() noexcept {
    static thread_local bool inside = false;
    return inside;
  }

  static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
  }

  // Polls for at most spin_; true as soon as `ready` holds.
  template <class F>
  bool spin_until(F ready) const noexcept {
    const auto deadline = std::chrono::steady_clock::now() + spin_;
    do {
      for (int i = 0; i < 64; ++i) {
        if (ready()) return true;
        pause();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    return ready();
  }

  void run(index_t tasks, Parallel::Task task, void* argument) noexcept {
    if (inside_task()) {
      for (index_t i = 0; i < tasks; ++i) task(argument, i);
      return;
    }
    const std::lock_guard<std::mutex> turn(callers_);
    task_ = task;
    argument_ = argument;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    const std::uint64_t job = (gate_.load(std::memory_order_relaxed) >> kJobShift) + 1;
    // The store and the load below, and their mirror images in work(), are sequentially consistent:
    // either the worker sees the open gate or the caller sees the sleeper.
    gate_.store(job << kJobShift | kOpen);
    if (sleepers_.load() > 0) {
      { const std::lock_guard<std::mutex> lock(sleep_mutex_); }
      wake_.notify_all();
    }
    drain();
    gate_.fetch_and(~kOpen);
    const auto empty = [this] { return (gate_.load() & kInsideMask) == 0; };
    if (!spin_until(empty)) {
      std::unique_lock<std::mutex> lock(done_mutex_);
      caller_sleeps_.store(true);
      done_.wait(lock, empty);
      caller_sleeps_.store(false);
    }
  }

  // Runs tasks of the current job until none is left.
  void drain() noexcept {
    inside_task() = true;
    for (index_t i = next_.fetch_add(1, std::memory_order_relaxed); i < tasks_;
         i = next_.fetch_add(1, std::memory_order_relaxed)) {
      task_(argument_, i);
    }
    inside_task() = false;
  }

  void work() noexcept {
    std::uint64_t last = 0;
    const auto ready = [this, &last] {
      const std::uint64_t gate = gate_.load();
      return stop_.load() || ((gate & kOpen) != 0 && gate >> kJobShift != last);
    };
    for (;;) {
      if (!spin_until(ready)) {
        std::unique_lock<std::mutex> lock(sleep_mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, ready);
        sleepers_.fetch_sub(1);
      }
      if (stop_.load()) return;
      std::uint64_t gate = gate_.load();
      while ((gate & kOpen) != 0 && !gate_.compare_exchange_weak(gate, gate + kInside)) {
      }
      if ((gate & kOpen) == 0) continue;  // the job ended first
      last = gate >> kJobShift;
      drain();
      const std::uint64_t before = gate_.fetch_sub(kInside);
      if ((before & (kInsideMask | kOpen)) == kInside && caller_sleeps_.load()) {
        { const std::lock_guard<std::mutex> lock(done_mutex_); }
        done_.notify_one();
      }
    }
  }

  const int threads_;
  const std::chrono::microseconds spin_;

  std::mutex callers_;
  Parallel::Task task_ = nullptr;
  void* argument_ = nullptr;
  index_t tasks_ = 0;

  // Apart, because every thread writes them.
  alignas(64) std::atomic<index_t> next_{0};
  alignas(64) std::atomic<std::uint64_t> gate_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::mutex done_mutex_;
  std::condition_variable done_;

  Workers workers_;  // last: the threads use everything above
};

SSM_NAMESPACE_END

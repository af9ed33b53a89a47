#pragma once

#include <cmath>

#include "ssm/core/arena.hpp"
#include "ssm/cpu/selective_scan.hpp"

SSM_CPU_DETAIL_BEGIN

// VectorScan with every sequence cut into pieces of time. Two passes over the pieces, each of which
// is a task for every register of channels:
//
//   find_end   the state that a piece leaves when it starts from zero, and the sum of its delta
//   (join)     carries the states from piece to piece: h <- exp(A sum delta) h + end
//   operator() the scan of a piece from its true state
//
// The first pass looks only as far back from the end of a piece as the state remembers. What it
// leaves out it leaves out for good: a state that is not finite has to be told to the pieces after
// it, by finish.
template <class T>
class PiecewiseScan : VectorScan<T> {
  using Base = VectorScan<T>;
  using Base::a_;
  using Base::kTokens;
  using Base::kWidth;
  using typename Base::Block;
  using typename Base::Scratch;
  using typename Base::Streams;
  using typename Base::V;

 public:
  using typename Base::Accum;
  using typename Base::Args;

  // Whether there is anything to cut, and by this scan.
  static bool supports(const Args& a, index_t pieces) noexcept {
    return pieces > 1 && a.x.size() > 0 && a.A.extent(1) <= Base::kCapacity &&
           a.mode != ScanMode::accurate && !a.sequences.packed();
  }

  PiecewiseScan(const Args& args, Accum magnitude, index_t pieces) noexcept
      : Base(args, magnitude, 1),
        d_state_(args.A.extent(1)),
        tokens_((args.x.extent(1) + pieces - 1) / pieces),
        pieces_((args.x.extent(1) + tokens_ - 1) / tokens_) {}

  // Piece by piece of a sequence, so that the registers of a row are read at about the same time.
  index_t tasks() const noexcept { return sequences() * pieces_ * this->blocks_; }

  void carve(Arena& arena) noexcept {
    states_ = arena.allocate<Accum>(saturating_mul(tasks(), d_state_ * kWidth));
    delta_ = arena.allocate<Accum>(saturating_mul(tasks(), kWidth));
  }

  void find_end(index_t task) const noexcept {
    if (task / this->blocks_ % pieces_ == pieces_ - 1) return;  // nothing comes after it
    Memory memory;
    Piece piece(*this, task, memory.A);
    Block& block = piece.block;
    std::fill(block.h_end, block.h_end + d_state_ * kWidth, Accum(0));

    V slowest = abs(V::load(block.A));
    for (index_t n = 1; n < d_state_; ++n) {
      slowest = min(slowest, abs(V::load(block.A + n * block.A_stride)));
    }
    V sum(Accum(0));
    index_t from = piece.end;
    while (from > piece.begin && !forgotten(slowest * sum, block.lanes)) {
      const int tokens = static_cast<int>(std::min<index_t>(kTokens, from - piece.begin));
      from -= tokens;
      this->prepare(block, piece.streams, from, tokens, 0, memory.scratch);
      V part(Accum(0));
      for (int t = 0; t < tokens; ++t) part = part + V::load(memory.scratch.delta + t * kWidth);
      sum = sum + part;
    }
    sum.store(delta_ + task * kWidth);
    this->run(&block, 1, piece.streams, from, piece.end, false, memory.scratch);
  }

  void join() const noexcept {
    for_each_block([&](Block& block, index_t sequence, index_t first) noexcept {
      const Accum* const A = a_.A.data() + block.channel * a_.A.stride(0);
      const Accum* h0 = nullptr;
      if (a_.h0.present()) {
        h0 = a_.h0.data() + sequence * a_.h0.stride(0) + block.channel * a_.h0.stride(1);
      }
      for (index_t n = 0; n < d_state_; ++n) {
        const V rate = load_strided<V>(A + n * a_.A.stride(1), a_.A.stride(0), block.lanes);
        V h(Accum(0));
        if (h0 != nullptr) {
          h = load_strided<V>(h0 + n * a_.h0.stride(2), a_.h0.stride(1), block.lanes);
        }
        for (index_t piece = 0;; ++piece) {
          const index_t task = first + piece * this->blocks_;
          Accum* const state = states(task) + n * kWidth;
          const V end = V::load(state);
          h.store(state);
          if (piece + 1 == pieces_) break;
          h = fma(exp(rate * V::load(delta_ + task * kWidth)), h, end);
        }
      }
    });
  }

  void operator()(index_t task) const noexcept {
    Memory memory;
    Piece piece(*this, task, memory.A);
    this->run(&piece.block, 1, piece.streams, piece.begin, piece.end, true, memory.scratch);
  }

  void finish() const noexcept {
    for_each_block([&](Block& block, index_t sequence, index_t first) noexcept {
      for (index_t piece = 1; piece < pieces_; ++piece) spread_nan(first + piece * this->blocks_);
      this->hold_state(block, states(first + (pieces_ - 1) * this->blocks_));
      this->store_h_last(block, sequence);
    });
  }

 private:
  struct Memory {
    alignas(64) Accum A[Base::kCapacity * kWidth];
    Scratch scratch;
  };

  // The visited tokens [begin, end) of one register of channels. Its state is in states_.
  struct Piece {
    Sequences::Range range;
    index_t begin, end;
    Streams streams;
    Block block;

    Piece(const PiecewiseScan& scan, index_t task, Accum* A) noexcept
        : range(scan.a_.sequences.range(task / scan.blocks_ / scan.pieces_, scan.a_.x.extent(1))),
          begin(std::min(task / scan.blocks_ % scan.pieces_ * scan.tokens_, range.end)),
          end(std::min(begin + scan.tokens_, range.end)),
          streams(scan.a_, range) {
      scan.place_block(block, task % scan.blocks_);
      scan.load_A(block, A, scan.a_.x.extent(1));
      scan.hold_state(block, scan.states(task));
    }
  };

  index_t sequences() const noexcept { return a_.sequences.count(a_.x.extent(0)); }

  // f(block, sequence, task of its first piece) for every register of channels of every sequence.
  template <class F>
  void for_each_block(F f) const noexcept {
    for (index_t sequence = 0; sequence < sequences(); ++sequence) {
      for (index_t i = 0; i < this->blocks_; ++i) {
        Block block;
        this->place_block(block, i);
        f(block, sequence, sequence * pieces_ * this->blocks_ + i);
      }
    }
  }

  Accum* states(index_t task) const noexcept { return states_ + task * d_state_ * kWidth; }

  // Whether exp(-exponent) is below 2^-40 of the rounding of any number, in every lane that exists.
  static bool forgotten(V exponent, int lanes) noexcept {
    constexpr Accum kEnough = Accum(0.6931471805599453) * (std::numeric_limits<Accum>::digits + 40);
    Accum values[kWidth];
    exponent.store(values);
    for (int i = 0; i < lanes; ++i) {
      if (!(values[i] > kEnough)) return false;
    }
    return true;
  }

  // A state that the piece before left infinite or NaN makes this one's NaN, and its outputs.
  void spread_nan(index_t task) const noexcept {
    const Accum* const before = states(task - this->blocks_);
    Accum* const after = states(task);
    V spoiled(Accum(0));
    for (index_t n = 0; n < d_state_; ++n) {
      const V zero_or_nan = V::load(before + n * kWidth) * V(Accum(0));
      spoiled = spoiled + zero_or_nan;
      const V h = V::load(after + n * kWidth);
      V::select(equal(zero_or_nan, zero_or_nan), h, zero_or_nan).store(after + n * kWidth);
    }
    if (V::all(equal(spoiled, spoiled))) return;
    Memory memory;
    const Piece piece(*this, task, memory.A);
    Accum lanes[kWidth];
    spoiled.store(lanes);
    for (int i = 0; i < piece.block.lanes; ++i) {
      if (!std::isnan(lanes[i])) continue;
      for (index_t t = piece.begin; t < piece.end; ++t) {
        piece.streams.y
            .data[t * piece.streams.y.token + (piece.block.channel + i) * a_.y.stride(2)] =
            narrow<T>(lanes[i]);
      }
    }
  }

  const index_t d_state_;
  const index_t tokens_;  // of a piece, but the last may have fewer
  const index_t pieces_;
  Accum* states_ = nullptr;  // of every task: a register for each state
  Accum* delta_ = nullptr;   // of every task: the sum of delta since find_end's first token
};

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// Bytes of the Arena for selective_scan in pieces: about batch * pieces * channels * (d_state + 1)
// values.
template <class T, class S>
std::size_t scratch_bytes(const Cpu&, const SelectiveScanArgs<T, S>& a, index_t pieces) noexcept {
  Arena counter;
  if constexpr (!is_complex_v<S>) {
    if (detail::PiecewiseScan<T>::supports(a, pieces)) {
      detail::PiecewiseScan<T>(a, 0, pieces).carve(counter);
    }
  }
  return counter.bytes_needed();
}

// The selective scan with every sequence cut into `pieces` >= 1 of equal length that run at the
// same time, for long sequences of few channels: without it only sequences and channels, by
// registers, are spread over threads. As many pieces as threads suffice. `scratch` holds
// scratch_bytes(cpu, a, pieces).
//
// Results depend on `pieces`, by rounding, and not on the number of threads. What a state has
// decayed below 2^-64 of itself (2^-93 for double) within a piece does not enter the next one, so
// the extra work is a few per cent where states forget; where they forget nothing within a piece it
// is a second scan, and two threads gain nothing (bench/results/2026-11-28-cpu-pieces-blas.md). A
// state that becomes infinite or NaN is NaN in h_last, and so are its channel's outputs in every
// piece after.
//
// Complex systems, d_state above 256, packed sequences and ScanMode::accurate are not cut: that is
// selective_scan(cpu, a), with no use for scratch.
template <class T, class S>
Status selective_scan(const Cpu& cpu, const SelectiveScanArgs<T, S>& a, index_t pieces,
                      Arena scratch) noexcept {
  Check check("selective_scan");
  check.also(check_shapes(a)).at_least("pieces", pieces, index_t{1});
  if (!check.passed()) return check.status();
  if constexpr (!is_complex_v<S>) {
    if (detail::PiecewiseScan<T>::supports(a, pieces)) {
      S magnitude;
      check.also(detail::check_values(a, magnitude));
      detail::PiecewiseScan<T> scan(a, magnitude, pieces);
      scan.carve(scratch);
      check.also(scratch.status("selective_scan"));
      if (!check.passed()) return check.status();
      const Parallel parallel = detail::scan_threads(cpu, a);
      parallel.for_each(scan.tasks(), [&](index_t task) noexcept { scan.find_end(task); });
      scan.join();
      parallel.for_each(scan.tasks(), [&](index_t task) noexcept { scan(task); });
      scan.finish();
      return check.status();
    }
  }
  return selective_scan(cpu, a);
}

SSM_CPU_NAMESPACE_END

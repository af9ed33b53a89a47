#pragma once

#include "ssm/cuda/detail/scan_backward_general.cuh"
#include "ssm/cuda/detail/scan_backward_tile.cuh"
#include "ssm/cuda/detail/scan_backward_whole.cuh"
#include "ssm/cuda/selective_scan.cuh"
#include "ssm/cuda/selective_scan_backward.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

// Whether the tiled kernels compute these gradients.
template <class T, class S>
bool scan_backward_is_tiled(const SelectiveScanGradArgs<T, S>& a) noexcept {
  if constexpr (is_complex_v<S> || std::is_same<T, double>::value) {
    return false;
  } else {
    const SelectiveScanArgs<T, S>& f = a.forward;
    const auto varies = [&](const View<S, 4>& gradient) {
      return !wanted(gradient, coefficient_mode(a, gradient)) ||
             !is_constant_over_sequence(gradient);
    };
    // The tiled kernels reach the elements of a tile by 32-bit offsets.
    constexpr index_t kStep = index_t{1} << 24;
    const auto near = [](const auto& v, int token, int other) {
      const index_t along = v.stride(token);
      const index_t across = v.stride(other);
      return v.data() == nullptr ||
             (along < kStep && along > -kStep && across < kStep && across > -kStep);
    };
    if (!near(f.x, 1, 2) || !near(f.dt, 1, 2) || !near(f.z, 1, 2) || !near(f.y, 1, 2) ||
        !near(a.dy, 1, 2) || !near(a.dx, 1, 2) || !near(a.ddt, 1, 2) || !near(a.dz, 1, 2) ||
        !near(f.B, 1, 3) || !near(f.C, 1, 3) || f.B.extent(2) > kStep) {
      return false;
    }
    const index_t shared = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    return shared >= static_cast<index_t>(kScanBackwardLeastShared) &&
           f.mode != ScanMode::accurate && f.b_rule == BRule::euler && f.A.extent(1) <= 32 &&
           f.C.extent(2) == f.B.extent(2) && varies(a.dB) && varies(a.dC) && f.x.extent(1) < kStep;
  }
}

// Calls f(shape) for the tiled shape of these states.
template <class F>
auto visit_scan_backward_shape(index_t d_state, F f) {
  if (d_state <= 4) return f(ScanBackwardShape<4, 1>{});
  if (d_state <= 8) return f(ScanBackwardShape<4, 2>{});
  if (d_state <= 16) return f(ScanBackwardShape<4, 4>{});
  return f(ScanBackwardShape<8, 4>{});
}

// How sequences are cut: chunks of whole pieces of whole tiles (scan_backward_tile.cuh).
struct ScanBackwardCut {
  index_t chunks, chunk_pieces, piece_length;
};

// Chunks have 128 tokens at least: the fewest with which the blocks of the backward sweep, two to a
// multiprocessor, are done within 3 % of the best time, a chunk that carries a gradient costing 15
// % more. (One sequence of 5120 channels is 80 blocks, of which an H100 holds 264: uncut, they
// leave most of it idle, and in four chunks a second wave would.) Pieces have 64 tokens at least:
// as many as the four blocks of the forward sweep to a multiprocessor allow without a second wave.
// Packed sequences, whose lengths the host does not know, are not cut; nor are those that fill the
// device more than twice over: their forward sweep, which carries no gradient and has more warps,
// is worth more than a full last wave.
template <class Shape, class T>
ScanBackwardCut scan_backward_cut(const SelectiveScanGradArgs<T>& a) noexcept {
  constexpr index_t kLeastChunk = 128;
  constexpr index_t kLeastPiece = 64;
  constexpr index_t kMost = 256;
  const SelectiveScanArgs<T>& f = a.forward;
  const index_t length = f.x.extent(1);
  const auto parts = [](index_t whole, index_t part) { return (whole + part - 1) / part; };
  const auto part_length = [&](index_t whole, index_t count) {
    return parts(parts(whole, count), Shape::kTile) * Shape::kTile;
  };
  ScanBackwardCut cut = {1, 1, part_length(length > 0 ? length : 1, 1)};
  const index_t groups = f.B.extent(2) > 0 ? f.B.extent(2) : 1;
  const index_t per_group = parts(f.x.extent(2) / groups, Shape::kBlockChannels);
  const index_t blocks = saturating_mul(saturating_mul(groups, per_group), f.x.extent(0));
  const index_t processors = device_attribute(cudaDevAttrMultiProcessorCount);
  const index_t longest = length / kLeastChunk;
  const index_t most = longest < kMost ? longest : kMost;
  if (f.sequences.packed() || most <= 1 || blocks == 0 || blocks >= 4 * processors) return cut;
  const auto cost = [&](index_t chunks) {
    const index_t chunk = part_length(length, chunks);
    const index_t waves = parts(blocks * parts(length, chunk), 2 * processors);
    return static_cast<double>(waves * chunk) * (1.15 - 0.15 / static_cast<double>(chunks));
  };
  double best = cost(1);
  for (index_t c = 2; c <= most; ++c) best = cost(c) < best ? cost(c) : best;
  index_t chunks = 1;
  while (cost(chunks) > 1.03 * best) ++chunks;
  const index_t chunk = part_length(length, chunks);
  chunks = parts(length, chunk);
  const index_t room = chunks > 1 ? 4 * processors / (blocks * chunks) : 1;
  const index_t finest = chunk / kLeastPiece;
  const index_t wished = room < finest ? room : finest;
  cut.piece_length = part_length(chunk, wished > 1 ? wished : 1);
  cut.chunk_pieces = parts(chunk, cut.piece_length);
  cut.chunks = parts(length, cut.chunk_pieces * cut.piece_length);
  return cut;
}

// The scratch of the tiled path, carved into p, and the cut; the shares of dB and dC are per slice
// of kBlockChannels channels.
template <class Shape, class T>
void carve_scan_backward_tile(const SelectiveScanGradArgs<T>& a, Arena& arena,
                              ScanBackwardTileParams<T>& p) noexcept {
  const SelectiveScanArgs<T>& f = a.forward;
  const ScanBackwardCut cut = scan_backward_cut<Shape>(a);
  p.piece_length = cut.piece_length;
  p.chunk_pieces = static_cast<int>(cut.chunk_pieces);
  p.pieces = static_cast<int>(cut.chunks * cut.chunk_pieces);
  p.forward.chunks = static_cast<int>(cut.chunks);
  p.forward.chunk_length = cut.chunk_pieces * cut.piece_length;
  const index_t channels = f.x.extent(2);
  const index_t sequences = f.sequences.count(f.x.extent(0));
  const index_t rows = saturating_mul(sequences, p.pieces);
  const index_t groups = f.B.extent(2) > 0 ? f.B.extent(2) : 1;
  const index_t slices = (channels / groups + Shape::kBlockChannels - 1) / Shape::kBlockChannels;
  const index_t tile_rows =
      saturating_mul(saturating_mul(rows, cut.piece_length / Shape::kTile), channels);
  p.tile_state = arena.allocate<float>(saturating_mul(tile_rows, Shape::kPadded));
  p.shares = carve_scan_shares(a, slices, slices, saturating_mul(sequences, cut.chunks), arena);
  if (p.pieces == 1) return;
  const index_t states = saturating_mul(saturating_mul(rows, channels), f.A.extent(1));
  p.tile_delta = arena.allocate<float>(tile_rows);
  p.piece_state = arena.allocate<float>(states);
  p.piece_gradient = arena.allocate<float>(states);
  p.piece_delta = arena.allocate<float>(saturating_mul(rows, channels));
}

// Whether channels are contiguous in every activation and gradient of one, and 16 bytes of them,
// from a whole multiple on, are aligned.
template <class T>
bool scan_backward_has_vectors(const SelectiveScanGradArgs<T>& a) noexcept {
  constexpr index_t kVector = 16 / static_cast<index_t>(sizeof(T));
  const SelectiveScanArgs<T>& f = a.forward;
  const auto vectors = [](const auto& v) {
    return v.data() == nullptr ||
           (reinterpret_cast<std::uintptr_t>(v.data()) % 16 == 0 && v.stride(2) == 1 &&
            v.stride(0) % kVector == 0 && v.stride(1) % kVector == 0);
  };
  const auto gradient = [&](const View<T, 3>& v) { return !wanted(v, a.inputs) || vectors(v); };
  return f.x.extent(2) / f.B.extent(2) % kVector == 0 && vectors(f.x) && vectors(f.dt) &&
         vectors(f.z) && vectors(f.y) && vectors(a.dy) && gradient(a.dx) && gradient(a.ddt) &&
         gradient(a.dz);
}

// Blocks of a shape's channels that a group takes.
template <class Shape, class T>
unsigned scan_blocks_per_group(const ScanTileParams<T>& p) noexcept {
  return static_cast<unsigned>((p.group_channels + Shape::kBlockChannels - 1) /
                               Shape::kBlockChannels);
}

template <class Shape, bool kVectors, class T>
cudaError_t launch_scan_backward_tile(const Cuda& cuda, const ScanBackwardTileParams<T>& q,
                                      index_t rows) {
  constexpr int kLanes = Shape::kLanes;
  constexpr int kStates = Shape::kStates;
  const ScanTileParams<T>& p = q.forward;
  const auto grid = static_cast<unsigned>(p.channel_blocks * rows);
  if (grid == 0) return cudaSuccess;
  const auto backwards = [&](auto kernel) {
    constexpr int kBytes = scan_backward_bytes<Shape, T, kVectors>();
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    if (error != cudaSuccess) return error;
    kernel<<<grid, Shape::kThreads, kBytes, cuda.stream>>>(q);
    return cudaGetLastError();
  };
  if (q.pieces == 1) {
    using Whole = ScanWholeShape<kLanes, kStates>;
    ScanBackwardTileParams<T> whole = q;
    whole.forward.blocks_per_group = scan_blocks_per_group<Whole>(p);
    whole.forward.channel_blocks =
        p.channel_blocks / p.blocks_per_group * whole.forward.blocks_per_group;
    scan_backward_whole_kernel<T, kLanes, kStates, kVectors>
        <<<static_cast<unsigned>(whole.forward.channel_blocks * rows), Whole::kThreads, 0,
           cuda.stream>>>(whole);
    return backwards(scan_backward_tile_kernel<T, kLanes, kStates, false, kVectors>);
  }
  constexpr index_t kMostSequences = 65535;
  const dim3 carry(
      static_cast<unsigned>((p.channels + 127) / 128), static_cast<unsigned>(p.d_state),
      static_cast<unsigned>(p.sequences < kMostSequences ? p.sequences : kMostSequences));
  scan_backward_states_kernel<T, kLanes, kStates, kVectors>
      <<<grid* static_cast<unsigned>(q.chunk_pieces), Shape::kThreads, 0, cuda.stream>>>(q);
  scan_backward_carry_kernel<T><<<carry, 128, 0, cuda.stream>>>(q);
  return backwards(scan_backward_tile_kernel<T, kLanes, kStates, true, kVectors>);
}

template <int kLanes, int kStates, class T>
Status run_scan_backward_tile(const Cuda& cuda, const SelectiveScanGradArgs<T>& a,
                              ScanBackwardShape<kLanes, kStates>, Arena scratch) {
  using Shape = ScanBackwardShape<kLanes, kStates>;
  const char* const op = "selective_scan_backward";
  const SelectiveScanArgs<T>& f = a.forward;
  ScanBackwardTileParams<T> q = {};
  q.forward = scan_params<ScanTileParams<T>>(f);
  carve_scan_backward_tile<Shape>(a, scratch, q);
  const Status fits = scratch.status(op);
  if (!fits) return fits;

  ScanTileParams<T>& p = q.forward;
  p.group_channels = p.channels / f.B.extent(2);
  q.dy = a.dy.data();
  q.dh_last = a.dh_last.data();
  for (int i = 0; i < 3; ++i) {
    q.dy_stride[i] = a.dy.stride(i);
    q.dh_last_stride[i] = a.dh_last.stride(i);
  }
  q.dx = gradient_row(a.dx, wanted(a.dx, a.inputs));
  q.ddt = gradient_row(a.ddt, wanted(a.ddt, a.inputs));
  q.dz = gradient_row(a.dz, f.z.present() && wanted(a.dz, a.inputs));
  q.dh0 = gradient_row(a.dh0, wanted(a.dh0, a.inputs));
  q.accumulate = a.inputs == GradMode::accumulate;
  q.batch = f.x.extent(0);
  if (f.reverse) {
    for (Extents<3>* stride : {&p.x_stride, &p.dt_stride, &p.z_stride, &p.y_stride, &q.dy_stride,
                               &q.dx.stride, &q.ddt.stride, &q.dz.stride}) {
      (*stride)[1] = -(*stride)[1];
    }
    p.B_stride[1] = -p.B_stride[1];
    p.C_stride[1] = -p.C_stride[1];
  }
  const index_t per_group = scan_blocks_per_group<Shape>(p);
  const index_t channel_blocks = saturating_mul(f.B.extent(2), per_group);
  const index_t rows = saturating_mul(p.sequences, p.chunks);
  // The forward sweep has the most: those of pieces, or those of half as many channels.
  const index_t blocks = saturating_mul(saturating_mul(channel_blocks, rows),
                                        q.pieces == 1 ? index_t{2} : q.chunk_pieces);
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, op, "grid", static_cast<double>(blocks),
                         Relation::at_most, 0x7fffffff);
  }
  p.blocks_per_group = static_cast<unsigned>(per_group);
  p.channel_blocks = static_cast<unsigned>(channel_blocks);
  const bool vectors =
      scan_backward_has_vectors(a) && device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >=
                                          scan_backward_bytes<Shape, T, true>();
  const cudaError_t error = vectors ? launch_scan_backward_tile<Shape, true>(cuda, q, rows)
                                    : launch_scan_backward_tile<Shape, false>(cuda, q, rows);
  const Status status = cuda_status(op, error);
  if (!status) return status;
  return queue_scan_sums(cuda, a, q.shares, per_group, per_group, rows);
}

// Channels per block of the general path: the largest divisor of both groups' channels that leaves
// 256 blocks.
template <class T, class S>
index_t scan_backward_slice_channels(const SelectiveScanGradArgs<T, S>& a) noexcept {
  constexpr index_t kBlocks = 256;
  const SelectiveScanArgs<T, S>& f = a.forward;
  const index_t channels = f.x.extent(2);
  if (channels == 0 || f.B.extent(2) == 0 || f.C.extent(2) == 0) return 1;
  index_t common = channels / f.B.extent(2);
  for (index_t other = channels / f.C.extent(2); other != 0;) {
    const index_t rest = common % other;
    common = other;
    other = rest;
  }
  const index_t sequences = f.sequences.count(f.x.extent(0));
  index_t slice = 1;
  for (index_t i = 2; i <= common; ++i) {
    if (common % i == 0 && saturating_mul(sequences, channels / i) >= kBlocks) slice = i;
  }
  return slice;
}

template <class T, class S>
void carve_scan_backward_general(const SelectiveScanGradArgs<T, S>& a, Arena& arena,
                                 ScanBackwardParams<T, S>& q) noexcept {
  using Z = device_scalar_t<S>;
  const SelectiveScanArgs<T, S>& f = a.forward;
  const index_t channels = f.x.extent(2);
  const index_t sequences = f.sequences.count(f.x.extent(0));
  const index_t d_state = f.A.extent(1);
  q.slice_channels = scan_backward_slice_channels(a);
  q.slices = channels / q.slice_channels;
  q.B_groups = f.B.extent(2);
  q.C_groups = f.C.extent(2);
  q.B_slices = q.B_groups == 0 ? 0 : q.slices / q.B_groups;
  q.C_slices = q.C_groups == 0 ? 0 : q.slices / q.C_groups;
  const index_t blocks = saturating_mul(sequences, q.slices);
  const index_t block_states = saturating_mul(blocks, d_state);
  q.history = arena.allocate<Z>(saturating_mul(block_states, f.x.extent(1) + 1));
  q.carried = arena.allocate<Z>(saturating_mul(block_states, 4));
  q.shares = carve_scan_shares(a, q.B_slices, q.C_slices, sequences, arena);
}

template <class T, class S>
Status run_scan_backward_general(const Cuda& cuda, const SelectiveScanGradArgs<T, S>& a,
                                 Arena scratch) {
  const char* const op = "selective_scan_backward";
  const SelectiveScanArgs<T, S>& f = a.forward;
  ScanBackwardParams<T, S> q = {};
  carve_scan_backward_general(a, scratch, q);
  const Status fits = scratch.status(op);
  if (!fits) return fits;
  ScanGeneralParams<T, S>& p = q.forward;
  p = scan_params<ScanGeneralParams<T, S>>(f);
  p.zero_order_hold = f.b_rule == BRule::zero_order_hold;
  p.accurate = f.mode == ScanMode::accurate;
  p.B_group_channels = p.channels / f.B.extent(2);
  p.C_group_channels = p.channels / f.C.extent(2);
  q.dy = a.dy.data();
  q.dh_last = reinterpret_cast<decltype(q.dh_last)>(a.dh_last.data());
  for (int i = 0; i < 3; ++i) {
    q.dy_stride[i] = a.dy.stride(i);
    q.dh_last_stride[i] = a.dh_last.stride(i);
  }
  q.dx = gradient_row(a.dx, wanted(a.dx, a.inputs));
  q.ddt = gradient_row(a.ddt, wanted(a.ddt, a.inputs));
  q.dz = gradient_row(a.dz, f.z.present() && wanted(a.dz, a.inputs));
  using Z = device_scalar_t<S>;
  if (wanted(a.dh0, a.inputs)) {
    q.dh0.data = reinterpret_cast<Z*>(a.dh0.data());
    for (int i = 0; i < 3; ++i) q.dh0.stride[i] = a.dh0.stride(i);
  }
  q.accumulate = a.inputs == GradMode::accumulate;
  q.batch = f.x.extent(0);
  const index_t blocks = saturating_mul(p.sequences, q.slices);
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, op, "grid", static_cast<double>(blocks),
                         Relation::at_most, 0x7fffffff);
  }
  if (blocks > 0) {
    scan_backward_general_kernel<T, S><<<static_cast<unsigned>(blocks), 32, 0, cuda.stream>>>(q);
  }
  const Status status = cuda_status(op, cudaGetLastError());
  if (!status) return status;
  return queue_scan_sums(cuda, a, q.shares, q.B_slices, q.C_slices, p.sequences);
}

}  // namespace detail

template <class T, class S>
std::size_t scratch_bytes(const Cuda&, const SelectiveScanGradArgs<T, S>& a) noexcept {
  Arena counter;
  bool tiled = false;
  if constexpr (!is_complex_v<S> && !std::is_same<T, double>::value) {
    if (detail::scan_backward_is_tiled(a)) {
      tiled = true;
      detail::visit_scan_backward_shape(a.forward.A.extent(1), [&](auto shape) {
        using Shape = decltype(shape);
        detail::ScanBackwardTileParams<T> unused = {};
        detail::carve_scan_backward_tile<Shape>(a, counter, unused);
      });
    }
  }
  if (!tiled) {
    detail::ScanBackwardParams<T, S> unused = {};
    detail::carve_scan_backward_general(a, counter, unused);
  }
  return counter.bytes_needed();
}

template <class T, class S>
Status selective_scan_backward(const Cuda& cuda, const SelectiveScanGradArgs<T, S>& a,
                               Arena scratch) {
  const Status status = check_shapes(a);
  if (!status) return status;
  if constexpr (!is_complex_v<S> && !std::is_same<T, double>::value) {
    if (detail::scan_backward_is_tiled(a)) {
      return detail::visit_scan_backward_shape(a.forward.A.extent(1), [&](auto shape) {
        return detail::run_scan_backward_tile(cuda, a, shape, scratch);
      });
    }
  }
  return detail::run_scan_backward_general(cuda, a, scratch);
}

SSM_NAMESPACE_END

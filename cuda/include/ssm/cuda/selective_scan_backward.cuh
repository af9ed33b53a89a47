#pragma once

#include "ssm/cuda/detail/scan_backward_general.cuh"
#include "ssm/cuda/detail/scan_backward_tile.cuh"
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
      const index_t a = v.stride(token);
      const index_t b = v.stride(other);
      return v.data() == nullptr || (a < kStep && a > -kStep && b < kStep && b > -kStep);
    };
    if (!near(f.x, 1, 2) || !near(f.dt, 1, 2) || !near(f.z, 1, 2) || !near(f.y, 1, 2) ||
        !near(a.dy, 1, 2) || !near(a.dx, 1, 2) || !near(a.ddt, 1, 2) || !near(a.dz, 1, 2) ||
        !near(f.B, 1, 3) || !near(f.C, 1, 3) || f.B.extent(2) > kStep) {
      return false;
    }
    return f.mode != ScanMode::accurate && f.b_rule == BRule::euler && f.A.extent(1) <= 32 &&
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

// How many chunks each sequence is cut into, of 128 tokens at least: the fewest with which the
// blocks, three to a multiprocessor, fill their last wave to within 3 % of the best. (8 sequences
// of 2048 channels are 512 blocks, and an H100 holds 396: uncut, the second wave leaves most of it
// idle.) Packed sequences, whose lengths the host does not know, are not cut.
template <class T>
index_t scan_backward_chunks(const SelectiveScanGradArgs<T>& a, index_t block_channels) noexcept {
  constexpr index_t kLeast = 128;
  constexpr index_t kMost = 64;
  const SelectiveScanArgs<T>& f = a.forward;
  const index_t groups = f.B.extent(2) > 0 ? f.B.extent(2) : 1;
  const index_t per_group = (f.x.extent(2) / groups + block_channels - 1) / block_channels;
  const index_t blocks = saturating_mul(saturating_mul(groups, per_group), f.x.extent(0));
  const index_t resident = 3 * device_attribute(cudaDevAttrMultiProcessorCount);
  const index_t longest = f.x.extent(1) / kLeast;
  const index_t most = longest < kMost ? longest : kMost;
  if (f.sequences.packed() || most <= 1 || blocks == 0 || blocks > resident * kMost) return 1;
  // The time of `chunks` chunks, in that of one wave of whole sequences.
  const auto cost = [&](index_t chunks) {
    const index_t waves = (blocks * chunks + resident - 1) / resident;
    return static_cast<double>(waves) / static_cast<double>(chunks);
  };
  double best = cost(1);
  for (index_t c = 2; c <= most; ++c) best = cost(c) < best ? cost(c) : best;
  for (index_t c = 1; c < most; ++c) {
    if (cost(c) <= 1.03 * best) return c;
  }
  return most;
}

// The scratch of the tiled path, carved into p; the shares of dB and dC are per slice of
// kBlockChannels channels.
template <class Shape, class T>
void carve_scan_backward_tile(const SelectiveScanGradArgs<T>& a, index_t chunks, Arena& arena,
                              ScanBackwardTileParams<T>& p) noexcept {
  const SelectiveScanArgs<T>& f = a.forward;
  const index_t channels = f.x.extent(2);
  const index_t sequences = f.sequences.count(f.x.extent(0));
  const index_t chunk_length = scan_chunk_length(f.x.extent(1), chunks);
  const index_t rows = saturating_mul(sequences, chunks);
  const index_t groups = f.B.extent(2) > 0 ? f.B.extent(2) : 1;
  const index_t slices = (channels / groups + Shape::kBlockChannels - 1) / Shape::kBlockChannels;
  p.chunk_tiles = (chunk_length + Shape::kTile - 1) / Shape::kTile;
  const index_t tile_rows = saturating_mul(saturating_mul(rows, p.chunk_tiles), channels);
  p.tile_state = arena.allocate<float>(saturating_mul(tile_rows, Shape::kPadded));
  p.shares = carve_scan_shares(a, slices, slices, rows, arena);
  if (chunks == 1) return;
  const index_t states = saturating_mul(saturating_mul(rows, channels), f.A.extent(1));
  p.tile_delta = arena.allocate<float>(tile_rows);
  p.chunk_state = arena.allocate<float>(states);
  p.chunk_gradient = arena.allocate<float>(states);
  p.chunk_delta = arena.allocate<float>(saturating_mul(rows, channels));
}

template <int kLanes, int kStates, class T>
Status run_scan_backward_tile(const Cuda& cuda, const SelectiveScanGradArgs<T>& a,
                              ScanBackwardShape<kLanes, kStates>, Arena scratch) {
  using Shape = ScanBackwardShape<kLanes, kStates>;
  const char* const op = "selective_scan_backward";
  const SelectiveScanArgs<T>& f = a.forward;
  const index_t chunks = scan_backward_chunks(a, Shape::kBlockChannels);
  ScanBackwardTileParams<T> q = {};
  carve_scan_backward_tile<Shape>(a, chunks, scratch, q);
  const Status fits = scratch.status(op);
  if (!fits) return fits;

  q.forward = scan_params<ScanTileParams<T>>(f);
  ScanTileParams<T>& p = q.forward;
  p.chunks = static_cast<int>(chunks);
  p.chunk_length = scan_chunk_length(p.length, chunks);
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
  const index_t per_group = (p.group_channels + Shape::kBlockChannels - 1) / Shape::kBlockChannels;
  const index_t channel_blocks = saturating_mul(f.B.extent(2), per_group);
  const index_t rows = saturating_mul(p.sequences, chunks);
  const index_t blocks = saturating_mul(channel_blocks, rows);
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, op, "grid", static_cast<double>(blocks),
                         Relation::at_most, 0x7fffffff);
  }
  p.blocks_per_group = static_cast<unsigned>(per_group);
  p.channel_blocks = static_cast<unsigned>(channel_blocks);
  const auto grid = static_cast<unsigned>(blocks);
  if (grid > 0 && chunks == 1) {
    scan_backward_states_kernel<T, kLanes, kStates, false>
        <<<grid, Shape::kThreads, 0, cuda.stream>>>(q);
    scan_backward_tile_kernel<T, kLanes, kStates, false>
        <<<grid, Shape::kThreads, 0, cuda.stream>>>(q);
  } else if (grid > 0) {
    constexpr index_t kMostSequences = 65535;
    const dim3 carry(
        static_cast<unsigned>((p.channels + 127) / 128), static_cast<unsigned>(p.d_state),
        static_cast<unsigned>(p.sequences < kMostSequences ? p.sequences : kMostSequences));
    scan_backward_states_kernel<T, kLanes, kStates, true>
        <<<grid, Shape::kThreads, 0, cuda.stream>>>(q);
    scan_backward_carry_kernel<T><<<carry, 128, 0, cuda.stream>>>(q);
    scan_backward_tile_kernel<T, kLanes, kStates, true>
        <<<grid, Shape::kThreads, 0, cuda.stream>>>(q);
  }
  const Status status = cuda_status(op, cudaGetLastError());
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
        detail::carve_scan_backward_tile<Shape>(
            a, detail::scan_backward_chunks(a, Shape::kBlockChannels), counter, unused);
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

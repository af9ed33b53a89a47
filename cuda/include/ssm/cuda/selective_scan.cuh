#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/cuda/detail/scan_general.cuh"
#include "ssm/cuda/detail/scan_step.cuh"
#include "ssm/cuda/detail/scan_tile.cuh"
#include "ssm/cuda/selective_scan.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

// The compiled shapes of scan_tile_kernel. States are rounded up to 4, 8, 16, …, 256; up to 32 of
// them there is a choice of lanes: few lanes per channel issue the fewest instructions per element,
// more lanes make more warps of few channels.
template <int kLanes, int kStates, int kTile, int kChannels = 1>
struct ScanTileVariant {
  static constexpr int lanes = kLanes;
  static constexpr int channels = kChannels;
  static constexpr int states = kStates;
  static constexpr int tile = kTile;
  static constexpr int threads = 128;
};

constexpr index_t kScanTileMaxState = 256;
constexpr int kScanCarryLanes = 4;  // of the pass for the chunks' end states

inline int scan_padded_state(index_t d_state) noexcept {
  int padded = 4;
  while (padded < d_state) padded *= 2;
  return padded;
}

// Calls f(variant) for the variant of these states and lanes; other lanes get the widest variant.
template <class F>
auto visit_scan_variant(int padded, int lanes, F f) {
  switch (padded) {
    case 4:
      return f(ScanTileVariant<4, 1, 32>{});
    case 8:
      return lanes <= 4 ? f(ScanTileVariant<4, 2, 32>{}) : f(ScanTileVariant<8, 1, 64>{});
    case 16:
      return lanes <= 4   ? f(ScanTileVariant<4, 4, 32>{})
             : lanes <= 8 ? f(ScanTileVariant<8, 2, 32>{})
                          : f(ScanTileVariant<16, 1, 64>{});
    case 32:
      return lanes <= 8 ? f(ScanTileVariant<8, 4, 32>{}) : f(ScanTileVariant<16, 2, 64>{});
    case 64:
      return f(ScanTileVariant<16, 4, 32>{});
    case 128:
      return f(ScanTileVariant<16, 8, 16>{});
    default:
      return f(ScanTileVariant<16, 16, 16>{});
  }
}

// Whether the tiled kernel computes these arguments; the general one computes all.
template <class T, class S>
bool scan_is_tiled(const SelectiveScanArgs<T, S>& a) noexcept {
  if constexpr (is_complex_v<S> || std::is_same<T, double>::value) {
    return false;
  } else {
    constexpr index_t kStep = index_t{1} << 31;
    const index_t groups = a.B.extent(2);
    // Lanes that a group leaves idle make small groups slower here than in the general kernel.
    return a.mode != ScanMode::accurate && a.b_rule == BRule::euler &&
           a.A.extent(1) <= kScanTileMaxState && a.C.extent(2) == groups &&
           (groups == 1 || a.x.extent(2) / groups >= 8) && a.y.stride(1) < kStep &&
           a.y.stride(1) > -kStep && a.x.extent(1) < kStep;
  }
}

// The arrays' addresses and strides, which the two kernels name alike.
template <class Params, class T, class S>
Params scan_params(const SelectiveScanArgs<T, S>& a) {
  Params p = {};
  p.x = a.x.data();
  p.dt = a.dt.data();
  p.z = a.z.data();
  p.y = a.y.data();
  p.B = reinterpret_cast<decltype(p.B)>(a.B.data());
  p.C = reinterpret_cast<decltype(p.C)>(a.C.data());
  p.A = reinterpret_cast<decltype(p.A)>(a.A.data());
  p.D = a.D.data();
  p.dt_bias = a.dt_bias.data();
  p.h0 = reinterpret_cast<decltype(p.h0)>(a.h0.data());
  p.h_last = reinterpret_cast<decltype(p.h_last)>(a.h_last.data());
  p.lengths = a.sequences.lengths.data();
  p.starts = a.sequences.starts.data();
  for (int i = 0; i < 3; ++i) {
    p.x_stride[i] = a.x.stride(i);
    p.dt_stride[i] = a.dt.stride(i);
    p.z_stride[i] = a.z.stride(i);
    p.y_stride[i] = a.y.stride(i);
    p.h0_stride[i] = a.h0.stride(i);
    p.h_last_stride[i] = a.h_last.stride(i);
  }
  for (int i = 0; i < 4; ++i) {
    p.B_stride[i] = a.B.stride(i);
    p.C_stride[i] = a.C.stride(i);
  }
  p.A_stride = {a.A.stride(0), a.A.stride(1)};
  p.D_stride = a.D.stride(0);
  p.dt_bias_stride = a.dt_bias.stride(0);
  p.lengths_stride = a.sequences.lengths.stride(0);
  p.starts_stride = a.sequences.starts.stride(0);
  p.length = a.x.extent(1);
  p.channels = a.x.extent(2);
  p.sequences = a.sequences.count(a.x.extent(0));
  p.d_state = static_cast<int>(a.A.extent(1));
  p.delta_softplus = a.delta_softplus;
  p.reverse = a.reverse;
  return p;
}

// The widest copies that the arrays' addresses and strides allow.
template <class T>
ScanLayout scan_layout(const SelectiveScanArgs<T>& a) noexcept {
  constexpr index_t kVector = 16 / static_cast<index_t>(sizeof(T));
  // `unit` is the contiguous dimension.
  const auto contiguous = [](const auto& v, int unit) {
    return reinterpret_cast<std::uintptr_t>(v.data()) % 16 == 0 && v.stride(unit) == 1;
  };
  const auto channel_rows = [&](const auto& v) {
    return v.data() == nullptr ||
           (contiguous(v, 2) && v.stride(0) % kVector == 0 && v.stride(1) % kVector == 0);
  };
  // A row may begin anywhere: the 16 bytes that hold its first token lie within the array.
  const auto token_rows = [&](const auto& v) {
    return v.data() == nullptr || (contiguous(v, 1) && v.stride(0) >= 0 && v.stride(2) >= 0);
  };
  const index_t group_channels = a.x.extent(2) / a.B.extent(2);
  if (channel_rows(a.x) && channel_rows(a.dt) && channel_rows(a.z) && channel_rows(a.y) &&
      group_channels % kVector == 0) {
    return ScanLayout::channel_vectors;
  }
  if (token_rows(a.x) && token_rows(a.dt) && token_rows(a.z) && token_rows(a.y) && !a.reverse &&
      !a.sequences.packed()) {
    return ScanLayout::token_vectors;
  }
  return ScanLayout::elements;
}

template <class T>
bool scan_coefficient_vectors(const SelectiveScanArgs<T>& a) noexcept {
  constexpr index_t kVector = 16 / static_cast<index_t>(sizeof(T));
  const auto vectors = [](const auto& v) {
    return reinterpret_cast<std::uintptr_t>(v.data()) % 16 == 0 && v.stride(3) == 1 &&
           v.stride(0) % kVector == 0 && v.stride(1) % kVector == 0 && v.stride(2) % kVector == 0;
  };
  const index_t d_state = a.A.extent(1);
  return d_state % kVector == 0 && scan_padded_state(d_state) == d_state && vectors(a.B) &&
         vectors(a.C);
}

// Nanoseconds per token that a multiprocessor takes for its share of `warps` warps: measured on an
// H100 with bf16 and 16 states. On another device, and with other states, what counts is their
// ratios.
inline double scan_token_time(int lanes, index_t warps, index_t multiprocessors) noexcept {
  constexpr double kTime[3][4] = {// 1 to 4 blocks of four warps
                                  {50, 65, 90, 119},
                                  {36, 44, 55, 68},
                                  {20, 26, 36, 45}};
  const index_t blocks = (warps + 4 * multiprocessors - 1) / (4 * multiprocessors);
  const double(&time)[4] = kTime[lanes <= 4 ? 0 : lanes <= 8 ? 1 : 2];
  return blocks <= 4 ? time[blocks - 1] : time[3] * static_cast<double>(blocks) / 4;
}

// The same for all of a sequence in chunks of `tokens`: with the pass for their end states, which
// takes three quarters of the time of the scan itself where chunks are short and less where they
// are long and forget, and with two more kernels.
inline double scan_chunk_time(index_t tokens, int lanes, index_t warps,
                              index_t multiprocessors) noexcept {
  constexpr double kKernels = 12000;
  const auto length = static_cast<double>(tokens);
  const double ends = 0.75 / (1 + length / 16384);
  return length * scan_token_time(lanes, warps, multiprocessors) * (1 + ends) + kKernels;
}

template <class T>
void carve_scan_carry(const SelectiveScanArgs<T>& a, index_t chunks, Arena& arena,
                      ScanTileParams<T>& p) {
  if (chunks <= 1) return;
  const index_t rows =
      saturating_mul(saturating_mul(a.sequences.count(a.x.extent(0)), chunks), a.x.extent(2));
  p.carry_state = arena.allocate<float>(saturating_mul(rows, a.A.extent(1)));
  p.carry_delta = arena.allocate<float>(rows);
}

// Tokens per chunk: whole tiles, or halves of the longest.
inline index_t scan_chunk_length(index_t length, index_t chunks) noexcept {
  constexpr index_t kWhole = 32;
  return ((length + chunks - 1) / chunks + kWhole - 1) / kWhole * kWhole;
}

template <class T, class Variant>
using ScanShapeOf = ScanTileShape<T, Variant::lanes, Variant::channels, Variant::states,
                                  Variant::tile, Variant::threads>;

// The whole scan of p.chunks chunks, or the end states of all but the last.
template <class Variant, bool kCarry, class T>
Status launch_scan_tile(const Cuda& cuda, ScanTileParams<T> p, ScanLayout layout) {
  constexpr int kLanes = Variant::lanes;
  constexpr int kThreads = Variant::threads;
  using Shape = ScanShapeOf<T, Variant>;
  constexpr int kBlockChannels = Shape::kBlockChannels;
  const index_t groups = p.channels / p.group_channels;
  const index_t per_group = (p.group_channels + kBlockChannels - 1) / kBlockChannels;
  const index_t chunks = kCarry ? p.chunks - 1 : p.chunks;
  const index_t blocks = saturating_mul(saturating_mul(groups, per_group), p.sequences * chunks);
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "selective_scan", "grid",
                         static_cast<double>(blocks), Relation::at_most, 0x7fffffff);
  }
  p.blocks_per_group = static_cast<unsigned>(per_group);
  p.channel_blocks = static_cast<unsigned>(groups * per_group);
  const auto run = [&](auto kernel) {
    constexpr std::size_t kSharedBytes = kCarry ? Shape::kCarrySharedBytes : Shape::kSharedBytes;
    if (kSharedBytes > 48 * 1024) {
      const cudaError_t error = cudaFuncSetAttribute(
          kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kSharedBytes));
      if (error != cudaSuccess) return cuda_status("selective_scan", error);
    }
    if (!kCarry && chunks > 1) {
      return cuda_status("selective_scan",
                         launch_dependent(cuda, kernel, blocks, kThreads, kSharedBytes, p));
    }
    kernel<<<static_cast<unsigned>(blocks), kThreads, kSharedBytes, cuda.stream>>>(p);
    return cuda_status("selective_scan", cudaGetLastError());
  };
  switch (layout) {
    case ScanLayout::channel_vectors:
      return run(scan_tile_kernel<T, kLanes, Variant::channels, Variant::states, Variant::tile,
                                  kThreads, ScanLayout::channel_vectors, kCarry>);
    case ScanLayout::token_vectors:
      return run(scan_tile_kernel<T, kLanes, Variant::channels, Variant::states, Variant::tile,
                                  kThreads, ScanLayout::token_vectors, kCarry>);
    case ScanLayout::elements:
      break;
  }
  return run(scan_tile_kernel<T, kLanes, Variant::channels, Variant::states, Variant::tile,
                              kThreads, ScanLayout::elements, kCarry>);
}

// The state that each chunk starts from.
template <class T>
Status launch_scan_carry(const Cuda& cuda, const ScanTileParams<T>& p, ScanLayout layout) {
  const Status status = visit_scan_variant(
      scan_padded_state(p.d_state), kScanCarryLanes,
      [&](auto variant) { return launch_scan_tile<decltype(variant), true>(cuda, p, layout); });
  if (!status.is_ok()) return status;
  const index_t blocks = (p.channels + kScanCarryThreads - 1) / kScanCarryThreads * p.d_state;
  const index_t at_once = 0x7fffffff / blocks;
  const index_t sequences = p.sequences < at_once ? p.sequences : at_once;
  return cuda_status(
      "selective_scan",
      launch_dependent(cuda, scan_carry_kernel<T>, blocks * sequences, kScanCarryThreads, 0, p));
}

template <class T, class S>
Status run_scan_general(const Cuda& cuda, const SelectiveScanArgs<T, S>& a) {
  auto p = scan_params<ScanGeneralParams<T, S>>(a);
  if (p.d_state > kScanGeneralMaxState) {
    return Status::error(ErrorCode::unsupported, "selective_scan", "A.extent(1) (d_state)",
                         static_cast<double>(p.d_state), Relation::at_most, kScanGeneralMaxState);
  }
  p.B_group_channels = p.channels / a.B.extent(2);
  p.C_group_channels = p.channels / a.C.extent(2);
  p.zero_order_hold = a.b_rule == BRule::zero_order_hold;
  p.accurate = a.mode == ScanMode::accurate;
  p.lanes = 1;
  while (p.lanes < 32 && p.lanes < p.d_state) p.lanes *= 2;
  const int states = (p.d_state + p.lanes - 1) / p.lanes;
  p.warps = (states + kScanGeneralStates - 1) / kScanGeneralStates;
  const int threads = p.warps > 1 ? 32 * p.warps : 128;
  const index_t slots = p.sequences * p.channels;
  const index_t per_block = p.warps > 1 ? 1 : threads / p.lanes;
  const index_t blocks = (slots + per_block - 1) / per_block;
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "selective_scan", "grid",
                         static_cast<double>(blocks), Relation::at_most, 0x7fffffff);
  }
  const auto run = [&](auto kernel) {
    kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, cuda.stream>>>(p);
    return cuda_status("selective_scan", cudaGetLastError());
  };
  if (states <= 1) return run(scan_general_kernel<T, S, 1>);
  if (states <= 2) return run(scan_general_kernel<T, S, 2>);
  if (states <= 4) return run(scan_general_kernel<T, S, 4>);
  return run(scan_general_kernel<T, S, kScanGeneralStates>);
}

// Length 1, unpacked: the decoding step.
template <class T>
Status run_scan_step(const Cuda& cuda, const SelectiveScanArgs<T>& a) {
  auto p = scan_params<ScanStepParams<T>>(a);
  p.group_channels = p.channels / a.B.extent(2);
  return launch_scan_step("selective_scan", cuda, p);
}

template <class T>
Status run_scan_tile(const Cuda& cuda, const SelectiveScanArgs<T>& a, const ScanConfig& config) {
  auto p = scan_params<ScanTileParams<T>>(a);
  const index_t groups = a.B.extent(2);
  p.group_channels = p.channels / groups;
  p.chunks = config.chunks;
  p.chunk_length = scan_chunk_length(p.length, config.chunks);
  p.coefficient_vectors = scan_coefficient_vectors(a);
  if (a.reverse) {
    for (Extents<3>* stride : {&p.x_stride, &p.dt_stride, &p.z_stride, &p.y_stride}) {
      (*stride)[1] = -(*stride)[1];
    }
    p.B_stride[1] = -p.B_stride[1];
    p.C_stride[1] = -p.C_stride[1];
  }
  Arena arena = cuda.workspace;
  carve_scan_carry(a, config.chunks, arena, p);
  if (arena.exhausted()) return arena.status("selective_scan");

  const int padded = scan_padded_state(p.d_state);
  const std::size_t whole = visit_scan_variant(
      padded, config.lanes, [](auto v) { return ScanShapeOf<T, decltype(v)>::kSharedBytes; });
  const std::size_t ends = visit_scan_variant(padded, kScanCarryLanes, [](auto v) {
    return ScanShapeOf<T, decltype(v)>::kCarrySharedBytes;
  });
  if (device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) <
      static_cast<int>(whole > ends ? whole : ends)) {
    return run_scan_general(cuda, a);
  }
  const ScanLayout layout = scan_layout(a);
  if (p.chunks > 1) {
    const Status status = launch_scan_carry(cuda, p, layout);
    if (!status.is_ok()) return status;
  }
  return visit_scan_variant(padded, config.lanes, [&](auto variant) {
    return launch_scan_tile<decltype(variant), false>(cuda, p, layout);
  });
}

}  // namespace detail

template <class T, class S>
ScanConfig selective_scan_config(const Cuda& cuda, const SelectiveScanArgs<T, S>& a) noexcept {
  ScanConfig config;
  if (!detail::scan_is_tiled(a)) {
    config.path = ScanPath::general;
    return config;
  }
  config.path = ScanPath::tiled;
  const index_t length = a.x.extent(1);
  const index_t d_state = a.A.extent(1);
  const index_t multiprocessors = detail::device_attribute(cudaDevAttrMultiProcessorCount);
  const int padded = detail::scan_padded_state(d_state);
  const index_t channels = saturating_mul(a.sequences.count(a.x.extent(0)), a.x.extent(2));
  const auto lanes_of = [&](int wanted) {
    return detail::visit_scan_variant(padded, wanted, [](auto v) { return decltype(v)::lanes; });
  };
  const auto warps = [&](int lanes) { return (channels * lanes + 31) / 32; };
  const int narrow = lanes_of(4);
  config.lanes = narrow;
  while (warps(config.lanes) < 8 * multiprocessors && lanes_of(2 * config.lanes) > config.lanes) {
    config.lanes = lanes_of(2 * config.lanes);
  }
  if (channels == 0 || multiprocessors <= 0 || a.sequences.packed()) return config;
  const index_t shortest = 4 * d_state > 64 ? 4 * d_state : 64;
  const index_t fill = 16 * multiprocessors / warps(narrow);
  const index_t most = length / shortest < fill ? length / shortest : fill;
  if (most <= 1) return config;
  const index_t tokens = detail::scan_chunk_length(length, most);
  const index_t chunks = (length + tokens - 1) / tokens;

  const double whole = static_cast<double>(length) *
                       detail::scan_token_time(config.lanes, warps(config.lanes), multiprocessors);
  const double cut =
      detail::scan_chunk_time(tokens, narrow, warps(narrow) * chunks, multiprocessors);
  if constexpr (!is_complex_v<S> && !std::is_same<T, double>::value) {
    Arena arena = cuda.workspace.capacity() > 0 ? cuda.workspace : Arena();
    detail::ScanTileParams<T> unused = {};
    detail::carve_scan_carry(a, chunks, arena, unused);
    if (cut < whole && chunks > 1 && !arena.exhausted() && !arena.counting()) {
      config.lanes = narrow;
      config.chunks = static_cast<int>(chunks);
    }
  }
  return config;
}

template <class T, class S>
std::size_t workspace_bytes(const Cuda& cuda, const SelectiveScanArgs<T, S>& a) noexcept {
  if constexpr (is_complex_v<S> || std::is_same<T, double>::value) {
    return 0;
  } else {
    // As if there were room for anything.
    Cuda roomy = cuda;
    roomy.workspace = Arena(reinterpret_cast<void*>(Arena::kAlignment),
                            std::numeric_limits<std::size_t>::max() / 4);
    const ScanConfig config = selective_scan_config(roomy, a);
    Arena counter;
    detail::ScanTileParams<T> unused = {};
    detail::carve_scan_carry(a, config.chunks, counter, unused);
    return counter.bytes_needed();
  }
}

template <class T, class S>
Status selective_scan(const Cuda& cuda, const SelectiveScanArgs<T, S>& a,
                      const ScanConfig& config) {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  if (a.x.extent(2) == 0 || a.sequences.count(a.x.extent(0)) == 0) return Status::ok();
  if (config.path == ScanPath::tiled) {
    Check check("selective_scan");
    check
        .require(detail::scan_is_tiled(a), ErrorCode::unsupported, "config.path",
                 "must be general for these arguments")
        .at_least("config.chunks", config.chunks, 1)
        .require(config.chunks == 1 || !a.sequences.packed(), ErrorCode::invalid_argument,
                 "config.chunks", "must be 1 for packed sequences");
    if (!check.passed()) return check.status();
    if constexpr (!is_complex_v<S> && !std::is_same<T, double>::value) {
      if (a.x.extent(1) == 1 && !a.sequences.packed()) return detail::run_scan_step(cuda, a);
      return detail::run_scan_tile(cuda, a, config);
    }
  }
  return detail::run_scan_general(cuda, a);
}

template <class T, class S>
Status selective_scan(const Cuda& cuda, const SelectiveScanArgs<T, S>& a) {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  return selective_scan(cuda, a, selective_scan_config(cuda, a));
}

SSM_NAMESPACE_END

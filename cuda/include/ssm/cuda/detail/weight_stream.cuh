#pragma once

#include "ssm/cuda/detail/async_copy.cuh"
#include "ssm/cuda/detail/gemv.cuh"

// The rows of several weights that one block multiplies, one weight after the other, with vectors
// of a few tokens, as one stream from global memory: some warps copy, others multiply. What a lane
// multiplies comes in packs of 16 bytes into a ring of its own in shared memory, so that the copies
// run ahead of the products over all weights.
//
// The rows are taken in fours, for which a lane reads its elements of the vectors once. The
// multiplying warps form groups of `warps` neighbours, which share the packs of a row; a group
// takes fours_a_group consecutive fours. Rows of fewer than 32 packs take so many lanes, rounded up
// to a power of two, and a warp has several groups.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kStreamRows = 4;
constexpr int kStreamMaxWarps = 8;  // that multiply
constexpr int kStreamMaxLanePacks = 64;
constexpr int kStreamMinLanesLog2 = 2;  // a group of lanes on the tensor cores

// How the blocks take one weight.
struct StreamShape {
  int fours;       // of a block, at most
  int packs;       // of a row
  int lane_packs;  // of a row, of one lane
  int warps;       // of a group
  int lanes_log2;  // the lanes of a warp that take one row
  int fours_a_group;
  unsigned row_bytes;  // from row to row

  __host__ __device__ int groups_a_warp() const { return 32 >> lanes_log2; }
  __host__ __device__ int groups(int block_warps) const {
    return block_warps / warps * groups_a_warp();
  }
  // Groups of copies of a lane.
  int copies() const { return fours_a_group * lane_packs; }
};

// The one with the fewest copies for a lane; of no fours_a_group if there is none.
inline StreamShape plan_stream(int fours, int packs, std::size_t row_bytes,
                               int block_warps) noexcept {
  StreamShape best = {};
  for (int lane_packs = 1; lane_packs <= kStreamMaxLanePacks; ++lane_packs) {
    StreamShape s = {
        fours, packs, lane_packs, 1, kStreamMinLanesLog2, 0, static_cast<unsigned>(row_bytes)};
    while (s.lanes_log2 < 5 && (lane_packs << s.lanes_log2) < packs) ++s.lanes_log2;
    const int warp_packs = lane_packs << s.lanes_log2;
    s.warps = (packs + warp_packs - 1) / warp_packs;
    if (s.warps > block_warps) continue;
    s.fours_a_group = (fours + s.groups(block_warps) - 1) / s.groups(block_warps);
    if (best.fours_a_group == 0 || s.copies() <= best.copies()) best = s;
  }
  return best;
}

// The part of a weight that a lane takes.
struct StreamPlace {
  int group;       // of the block
  int first;       // of its fours
  int fours;       // of this lane: none if not positive
  int warp_fours;  // of any lane of the warp
  int pack;        // the first; the next is 2^lanes_log2 later
  int warp;        // of the group's
};

// `warp_place` is the warp's index divided by shape.warps, times 2^8, and the remainder; -1 for a
// warp without rows. `fours` is how many the block has.
__device__ __forceinline__ StreamPlace stream_place(const StreamShape& shape, int warp_place,
                                                    int fours) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  StreamPlace p = {};
  if (warp_place < 0) return p;
  const int first_group = (warp_place >> 8) * shape.groups_a_warp();
  p.group = first_group + (lane >> shape.lanes_log2);
  p.first = p.group * shape.fours_a_group;
  p.fours = min(shape.fours_a_group, fours - p.first);
  p.warp_fours = max(0, min(shape.fours_a_group, fours - first_group * shape.fours_a_group));
  p.warp = warp_place & 0xff;
  p.pack =
      ((p.warp * shape.lane_packs) << shape.lanes_log2) + (lane & ((1 << shape.lanes_log2) - 1));
  return p;
}

// Sums of the first kLive of the values over the lanes of a warp, of which the half with kMask goes
// on with one half of the values and the other with the other, down to one value a lane.
template <int kLive, int kMask, int kCount>
__device__ __forceinline__ void sum_by_halves(float (&v)[kCount]) {
  if constexpr (kLive > 1) {
    const bool upper = (threadIdx.x & kMask) != 0;
#pragma unroll
    for (int i = 0; i < kLive / 2; ++i) {
      const float away = upper ? v[i] : v[i + kLive / 2];
      const float kept = upper ? v[i + kLive / 2] : v[i];
      v[i] = kept + __shfl_xor_sync(0xffffffffu, away, kMask);
    }
    sum_by_halves<kLive / 2, kMask / 2>(v);
  } else if constexpr (kMask > 0) {
    v[0] += __shfl_xor_sync(0xffffffffu, v[0], kMask);
    sum_by_halves<1, kMask / 2>(v);
  }
}

// The sums of kCount values over groups of 2^lanes_log2 lanes. Calls put(i, sum) once for every
// value and group, from any lane of it.
template <int kCount, class F>
__device__ __forceinline__ void sum_over_lanes(float (&v)[kCount], int lanes_log2, F&& put) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lanes_log2 == 5) {
    sum_by_halves<kCount, 16>(v);
    constexpr int kLanes = 32 / kCount;
    if (lane % kLanes == 0) put(lane / kLanes, v[0]);
    return;
  }
  for (int m = (1 << lanes_log2) / 2; m >= 1; m /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] += __shfl_xor_sync(0xffffffffu, v[i], m);
  }
  if ((lane & ((1 << lanes_log2) - 1)) != 0) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) put(i, v[i]);
}

}  // namespace detail
SSM_NAMESPACE_END

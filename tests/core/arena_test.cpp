#include "ssm/core/arena.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace {

using ssm::Arena;
using ssm::index_t;

struct Carved {
  double* numbers;
  char* bytes;
  ssm::View<float, 2> matrix;
  int* nothing;
};

Carved carve(Arena& arena) {
  Carved c;
  c.numbers = arena.allocate<double>(5);
  c.bytes = arena.allocate<char>(1);
  c.matrix = arena.view<float, 2>({3, 7});
  c.nothing = arena.allocate<int>(0);
  return c;
}

TEST(Arena, CountsWhatItCarvesAtEveryBaseAddress) {
  Arena counter;
  carve(counter);
  EXPECT_TRUE(counter.counting());
  EXPECT_FALSE(counter.exhausted());
  const std::size_t needed = counter.bytes_needed();
  std::vector<unsigned char> memory(needed + 2 * Arena::kAlignment);
  for (std::size_t shift = 0; shift < Arena::kAlignment; ++shift) {
    Arena arena(memory.data() + shift, needed);
    const Carved c = carve(arena);
    EXPECT_TRUE(arena.status("op").is_ok()) << shift;
    EXPECT_EQ(arena.used(), counter.used());
    const unsigned char* const begin = memory.data() + shift;
    const unsigned char* const end = begin + needed;
    const auto inside = [&](const void* piece, std::size_t bytes) {
      const auto* const p = static_cast<const unsigned char*>(piece);
      return p >= begin && p + bytes <= end &&
             reinterpret_cast<std::uintptr_t>(p) % Arena::kAlignment == 0;
    };
    ASSERT_TRUE(inside(c.numbers, 5 * sizeof(double)));
    ASSERT_TRUE(inside(c.bytes, 1));
    ASSERT_TRUE(inside(c.matrix.data(), 21 * sizeof(float)));
    EXPECT_EQ(c.nothing, nullptr);
    EXPECT_TRUE(c.matrix.contiguous());
    std::memset(c.numbers, 1, 5 * sizeof(double));  // pieces do not overlap
    std::memset(c.bytes, 2, 1);
    std::memset(c.matrix.data(), 3, 21 * sizeof(float));
    EXPECT_EQ(reinterpret_cast<unsigned char*>(c.numbers)[5 * sizeof(double) - 1], 1);
    EXPECT_EQ(c.bytes[0], 2);
  }
}

TEST(Arena, OneByteLessIsReportedWithBothNumbers) {
  Arena counter;
  carve(counter);
  alignas(Arena::kAlignment) unsigned char memory[1024];
  Arena arena(memory, counter.used() - 1);
  const Carved c = carve(arena);
  EXPECT_NE(c.numbers, nullptr);
  EXPECT_EQ(c.matrix.data(), nullptr);
  EXPECT_TRUE(arena.exhausted());
  const ssm::Status status = arena.status("op");
  EXPECT_EQ(status.code(), ssm::ErrorCode::workspace_too_small);
  EXPECT_EQ(status.found(), static_cast<double>(counter.used() - 1));
  EXPECT_EQ(status.wanted(), static_cast<double>(counter.used()));
}

TEST(Arena, SizesThatOverflowAreRefused) {
  constexpr index_t kMax = std::numeric_limits<index_t>::max();
  for (const index_t count : {kMax, kMax / 4 + 1, kMax / 8 + 1}) {
    Arena counter;
    EXPECT_EQ(counter.allocate<double>(count), nullptr);
    EXPECT_TRUE(counter.exhausted());
    EXPECT_EQ(counter.allocate<char>(1), nullptr);
    EXPECT_TRUE(counter.exhausted());
  }
  Arena negative;
  EXPECT_EQ(negative.allocate<double>(-1), nullptr);
  EXPECT_EQ(negative.used(), 0u);
}

TEST(Arena, NullAndTinyMemory) {
  Arena null(nullptr, 1000);
  EXPECT_EQ(null.allocate<int>(1), nullptr);
  EXPECT_TRUE(null.exhausted());
  unsigned char byte = 0;
  Arena tiny(&byte, 1);
  EXPECT_EQ(tiny.allocate<int>(1), nullptr);
  EXPECT_TRUE(tiny.exhausted());
  Arena unused(nullptr, 0);
  EXPECT_EQ(unused.allocate<int>(0), nullptr);
  EXPECT_TRUE(unused.status("op").is_ok());
  EXPECT_EQ(Arena().bytes_needed(), 0u);
}

TEST(Arena, WhatACounterCountedIsNotThere) {
  Arena counter;
  EXPECT_TRUE(counter.status("op").is_ok());
  counter.allocate<char>(65);
  EXPECT_FALSE(counter.exhausted());
  EXPECT_EQ(std::string(counter.status("op").message().text),
            "op: workspace bytes is 0, must be at least 128");
}

TEST(Arena, ACalleesCarvingEndsWithTheCall) {
  alignas(Arena::kAlignment) unsigned char memory[256];
  const Arena arena(memory, sizeof(memory));
  const auto callee = [](Arena copy) { return copy.allocate<int>(8); };
  EXPECT_EQ(callee(arena), callee(arena));
  EXPECT_EQ(arena.used(), 0u);
}

}  // namespace

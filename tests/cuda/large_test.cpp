#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/device_target.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "support/random.hpp"

// More than 2^31 elements per array and more than 65,535 channels (mamba#1015, mamba#883). The
// arrays are too large for the reference; their rows repeat with a short period, so that single
// channels can be computed on the host.
namespace ssm_test {
namespace {

using ssm::bf16;

constexpr index_t kLength = 32768;
constexpr index_t kChannels = 70000;
constexpr index_t kState = 16;
constexpr index_t kWidth = 4;
constexpr index_t kPeriod = 64;
constexpr index_t kElements = kLength * kChannels;
static_assert(kElements > (index_t{1} << 31), "the offsets need more than 31 bits");

constexpr index_t kProbes[] = {0, 1, 35001, 65535, 65536, kChannels - 1};

double value(bf16 v) { return static_cast<double>(static_cast<float>(v)); }

// Device memory: poisoned, or a copy of a host array.
class DeviceBytes {
 public:
  explicit DeviceBytes(index_t bytes) {
    cuda_check(cudaMalloc(&data_, static_cast<std::size_t>(bytes)), "large array");
    cuda_check(cudaMemset(data_, kPoison, static_cast<std::size_t>(bytes)), "poison");
  }
  template <class T>
  explicit DeviceBytes(const std::vector<T>& host)
      : DeviceBytes(static_cast<index_t>(host.size() * sizeof(T))) {
    cuda_check(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice),
               "upload");
  }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() { cuda_check(cudaFree(data_), "free"); }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// kPeriod rows, again and again over the kLength rows of `to`.
void repeat(const std::vector<bf16>& rows, bf16* to) {
  const std::size_t bytes = rows.size() * sizeof(bf16);
  cuda_check(cudaMemcpy(to, rows.data(), bytes, cudaMemcpyHostToDevice), "rows");
  for (index_t done = kPeriod; done < kLength; done *= 2) {
    cuda_check(
        cudaMemcpy(to + done * kChannels, to, bytes * static_cast<std::size_t>(done / kPeriod),
                   cudaMemcpyDeviceToDevice),
        "repeat");
  }
}

class Large : public testing::Test {
 protected:
  void SetUp() override {
    std::size_t free = 0;
    std::size_t total = 0;
    cuda_check(cudaMemGetInfo(&free, &total), "memory");
    if (free < std::size_t{16} << 30) GTEST_SKIP() << "needs 16 GiB of device memory";
  }

  std::vector<bf16> random_rows(double low, double high) {
    std::vector<bf16> rows(static_cast<std::size_t>(kPeriod * kChannels));
    for (bf16& v : rows) v = bf16(static_cast<float>(random_.uniform(low, high)));
    return rows;
  }
  std::vector<float> random_floats(index_t count, double low, double high) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& v : values) v = static_cast<float>(random_.uniform(low, high));
    return values;
  }

  // Every element was written, and those of the probed channels are within `tolerance` of the
  // largest of their channel. wanted[p][t] for probe p.
  static void expect(const bf16* y, const std::vector<std::vector<double>>& wanted,
                     double tolerance) {
    constexpr index_t kRows = 256;
    std::vector<bf16> rows(static_cast<std::size_t>(kRows * kChannels));
    for (index_t t0 = 0; t0 < kLength; t0 += kRows) {
      cuda_check(cudaMemcpy(rows.data(), y + t0 * kChannels, rows.size() * sizeof(bf16),
                            cudaMemcpyDeviceToHost),
                 "rows of y");
      index_t unwritten = 0;
      for (const bf16& v : rows) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, &v, sizeof(bits));
        unwritten += (bits & 0x7fff) > 0x7f80;  // NaN
      }
      ASSERT_EQ(unwritten, 0) << "rows " << t0 << " to " << t0 + kRows;
      for (std::size_t p = 0; p < wanted.size(); ++p) {
        double largest = 0;
        for (const double v : wanted[p]) largest = std::max(largest, std::abs(v));
        for (index_t t = 0; t < kRows; ++t) {
          const double found = value(rows[static_cast<std::size_t>(t * kChannels + kProbes[p])]);
          const double want = wanted[p][static_cast<std::size_t>(t0 + t)];
          ASSERT_TRUE(std::abs(found - want) <= tolerance * largest)
              << "token " << t0 + t << " channel " << kProbes[p] << ": " << found << ", not "
              << want;
        }
      }
    }
  }

  Random random_;
};

TEST_F(Large, SelectiveScan) {
  const std::vector<bf16> x = random_rows(-1, 1);
  const std::vector<bf16> dt = random_rows(-4, 0);
  const std::vector<float> A = random_floats(kChannels * kState, -2, -0.1);
  const std::vector<float> D = random_floats(kChannels, -1, 1);
  std::vector<bf16> B(static_cast<std::size_t>(kLength * kState));
  for (bf16& v : B) v = bf16(static_cast<float>(random_.uniform(-1, 1)));
  std::vector<bf16> C(B.rbegin(), B.rend());

  const DeviceBytes device_x(kElements * 2);
  const DeviceBytes device_dt(kElements * 2);
  const DeviceBytes device_y(kElements * 2);
  repeat(x, device_x.as<bf16>());
  repeat(dt, device_dt.as<bf16>());
  const DeviceBytes device_A(A);
  const DeviceBytes device_D(D);
  const DeviceBytes device_B(B);
  const DeviceBytes device_C(C);

  ssm::SelectiveScanArgs<bf16> a;
  a.x = {device_x.as<bf16>(), {1, kLength, kChannels}};
  a.dt = {device_dt.as<bf16>(), {1, kLength, kChannels}};
  a.A = {device_A.as<float>(), {kChannels, kState}};
  a.B = {device_B.as<bf16>(), {1, kLength, 1, kState}};
  a.C = {device_C.as<bf16>(), {1, kLength, 1, kState}};
  a.D = {device_D.as<float>(), {kChannels}};
  a.y = {device_y.as<bf16>(), {1, kLength, kChannels}};
  const ssm::Status status = selective_scan(ssm::Cuda{}, a);
  ASSERT_TRUE(status.is_ok()) << status.message().text;
  cuda_check(cudaDeviceSynchronize(), "selective_scan");

  std::vector<std::vector<double>> wanted;
  for (const index_t d : kProbes) {
    std::vector<double> y;
    double h[kState] = {};
    for (index_t t = 0; t < kLength; ++t) {
      const auto row = static_cast<std::size_t>(t % kPeriod * kChannels + d);
      const double delta = std::log1p(std::exp(value(dt[row])));
      double sum = static_cast<double>(D[static_cast<std::size_t>(d)]) * value(x[row]);
      for (index_t n = 0; n < kState; ++n) {
        const auto at = static_cast<std::size_t>(t * kState + n);
        const double decay =
            std::exp(delta * static_cast<double>(A[static_cast<std::size_t>(d * kState + n)]));
        h[n] = decay * h[n] + delta * value(B[at]) * value(x[row]);
        sum += value(C[at]) * h[n];
      }
      y.push_back(sum);
    }
    wanted.push_back(y);
  }
  expect(device_y.as<bf16>(), wanted, 5e-3);
}

TEST_F(Large, CausalConv1d) {
  const std::vector<bf16> x = random_rows(-1, 1);
  std::vector<bf16> weight(static_cast<std::size_t>(kChannels * kWidth));
  for (bf16& v : weight) v = bf16(static_cast<float>(random_.uniform(-1, 1)));

  const DeviceBytes device_x(kElements * 2);
  const DeviceBytes device_y(kElements * 2);
  repeat(x, device_x.as<bf16>());
  const DeviceBytes device_weight(weight);

  ssm::CausalConv1dArgs<bf16> a;
  a.x = {device_x.as<bf16>(), {1, kLength, kChannels}};
  a.weight = {device_weight.as<bf16>(), {kChannels, kWidth}};
  a.y = {device_y.as<bf16>(), {1, kLength, kChannels}};
  const ssm::Status status = causal_conv1d(ssm::Cuda{}, a);
  ASSERT_TRUE(status.is_ok()) << status.message().text;
  cuda_check(cudaDeviceSynchronize(), "causal_conv1d");

  std::vector<std::vector<double>> wanted;
  for (const index_t d : kProbes) {
    std::vector<double> y;
    for (index_t t = 0; t < kLength; ++t) {
      double sum = 0;
      for (index_t k = 0; k < kWidth; ++k) {
        const index_t from = t - (kWidth - 1) + k;
        if (from < 0) continue;
        sum += value(weight[static_cast<std::size_t>(d * kWidth + k)]) *
               value(x[static_cast<std::size_t>(from % kPeriod * kChannels + d)]);
      }
      y.push_back(a.silu ? sum / (1 + std::exp(-sum)) : sum);
    }
    wanted.push_back(y);
  }
  expect(device_y.as<bf16>(), wanted, 5e-3);
}

}  // namespace
}  // namespace ssm_test

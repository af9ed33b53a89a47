// A user's first program: the selective scan on three tokens of one channel, whose results are
// known (two states, A = -1, -2; D = 1/2).
#include <cmath>
#include <cstdio>

#include <ssm/ssm.hpp>

int main() {
  const double x[] = {1, 2, 3}, dt[] = {0, 1, -1}, D[] = {0.5}, A[] = {-1, -2};
  const double B[] = {1, 0, 0, 1, 1, 1}, C[] = {1, 1, 1, 1, 1, -1};
  double y[3] = {NAN, NAN, NAN}, h[2] = {NAN, NAN};

  ssm::SelectiveScanArgs<double> scan;
  scan.x = {x, {1, 3, 1}};
  scan.dt = {dt, {1, 3, 1}};
  scan.A = {A, {1, 2}};
  scan.B = {B, {1, 3, 1, 2}};
  scan.C = {C, {1, 3, 1, 2}};
  scan.D = {D, {1}};
  scan.h_last = {h, {1, 1, 2}};
  scan.y = {y, {1, 3, 1}};
  if (const ssm::Status status = selective_scan(ssm::Reference{}, scan); !status) {
    std::fprintf(stderr, "%s\n", status.message().text);
    return 1;
  }

  const double expected[] = {1.1931471805599454, 3.812939362994842, 0.2325444003680037};
  for (int t = 0; t < 3; ++t) {
    std::printf("y[%d] = %.16g\n", t, y[t]);
    if (!(std::abs(y[t] - expected[t]) <= 1e-14)) return 1;
  }
  return std::abs(h[0] - 1.076066069745442) <= 1e-14 && std::abs(h[1] - 2.3435216693774383) <= 1e-14
             ? 0
             : 1;
}

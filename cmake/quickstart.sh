#!/bin/sh
# The first ten minutes on a fresh Debian or Ubuntu machine:
#
#   sh cmake/quickstart.sh demo               install what is missing, build, write some text
#   sh cmake/quickstart.sh test               install what is missing, build, run the tests
#   sh cmake/quickstart.sh setup [packages…]  only install what is missing, and the packages named
#
# It may be run again at any time and does only what is left to do. On other systems, or to use your
# own compiler and libraries, set SSM_SKIP_INSTALL=1 and it goes straight to the build.
set -eu
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }
fail() {
  printf '\nquickstart: %s\n' "$*" >&2
  exit 1
}

usage() {
  sed -n '2,9s/^# \{0,1\}//p' cmake/quickstart.sh
  exit "$1"
}

has() { command -v "$1" >/dev/null 2>&1; }
installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Prints the Debian packages that are missing, of the tools (looked for by command, so that a
# compiler of your own counts) and the libraries.
missing_packages() {
  if [ -z "${CXX:-}" ] && ! has c++ && ! has g++ && ! has clang++; then echo g++; fi
  if ! has cmake; then echo cmake; fi
  if ! has ninja && ! has make; then echo ninja-build; fi
  if ! has pkg-config; then echo pkg-config; fi
  for package in libeigen3-dev libgtest-dev nlohmann-json3-dev "$@"; do
    installed "$package" || echo "$package"
  done
}

install_missing() {
  if [ -n "${SSM_SKIP_INSTALL:-}" ]; then
    say "SSM_SKIP_INSTALL is set: installing nothing"
    return
  fi
  if ! has apt-get || ! has dpkg-query; then
    fail "this is not a Debian or Ubuntu system (there is no apt-get). Install a C++17 compiler,
CMake 3.22 or newer, Ninja or make, Eigen 3.4, GoogleTest and nlohmann-json yourself, then run
  SSM_SKIP_INSTALL=1 sh cmake/quickstart.sh …"
  fi
  # shellcheck disable=SC2046  # one word per package
  missing=$(echo $(missing_packages "$@"))
  if [ -z "$missing" ]; then
    say "everything needed is installed"
    return
  fi

  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    if ! has sudo; then
      fail "these packages are missing, and installing them needs root (you are not root, and there
is no sudo). Ask an administrator to run
  apt-get install $missing"
    fi
    as_root=sudo
    if [ ! -t 0 ]; then as_root='sudo -n'; fi
  fi
  say "installing: $missing"
  apt_options='-q -y -o Acquire::Retries=2 -o DPkg::Lock::Timeout=120'
  # A failed update is no error yet: the lists at hand may do.
  # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get $apt_options update ||
    say "apt-get update failed; trying with the package lists there are"
  # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get $apt_options install \
    --no-install-recommends $missing </dev/null ||
    fail "could not install: $missing
apt-get's own words are above. The usual reasons: this machine is offline or its package mirror is
unreachable, or you are not allowed to become root. With the packages installed by other means, run
this again."
}

check_tools() {
  has cmake || fail "there is no cmake"
  version=$(cmake --version | sed -n 's/^cmake version \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  # shellcheck disable=SC2086
  set -- $version
  if [ "$1" -lt 3 ] || { [ "$1" -eq 3 ] && [ "$2" -lt 22 ]; }; then
    fail "CMake 3.22 or newer is needed, and $(command -v cmake) is $1.$2 (Debian 12 and Ubuntu
22.04 have a newer one)."
  fi
}

# One compiler process per core, and per 1.5 GB of free memory.
jobs() {
  cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
  memory=$(awk '/^MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo 2>/dev/null || true)
  if [ -n "$memory" ] && [ "$memory" -lt "$cores" ]; then cores=$memory; fi
  if [ "$cores" -lt 1 ]; then cores=1; fi
  echo "$cores"
}

# configure <build directory> <options…>
configure() {
  build=$1
  shift
  if [ ! -f "$build/CMakeCache.txt" ] && has ninja; then set -- -G Ninja "$@"; fi
  say "configuring in $build"
  cmake -S . -B "$build" "$@"
}

demo() {
  install_missing
  check_tools
  native=
  if echo 'int main() {}' | "${CXX:-c++}" -march=native -x c++ -fsyntax-only - 2>/dev/null; then
    native=-march=native
  fi
  configure build-quickstart/demo -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$native" \
    -DSSM_BUILD_TESTS=OFF -DSSM_BUILD_EXAMPLES=ON
  say "building examples/generate"
  cmake --build build-quickstart/demo --parallel "$(jobs)" --target generate
  say "writing text with examples/generate/model, a byte-level Mamba that examples/train trained on
   the King James Bible"
  exec build-quickstart/demo/examples/generate/generate --prompt 'Ge1:1 In the beginning ' \
    --tokens 400 --seed 1
}

run_tests() {
  install_missing
  check_tools
  # -O1: quick to compile; assertions stay on. The CPU kernels at the narrowest and the widest
  # instruction set that this machine executes; without SSM_TEST_SIMD_SETS it would be each.
  configure build-quickstart/test -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 \
    -DSSM_BUILD_TESTS=ON -DSSM_BUILD_EXAMPLES=ON -DSSM_TEST_SIMD_SETS=extremes
  say "building the tests and the examples"
  cmake --build build-quickstart/test --parallel "$(jobs)"
  say "running the tests"
  cd build-quickstart/test
  exec ctest --output-on-failure --parallel "$(jobs)"
}

case "${1:-}" in
  demo) demo ;;
  test) run_tests ;;
  setup)
    shift
    install_missing "$@"
    ;;
  -h | --help) usage 0 ;;
  *) usage 2 >&2 ;;
esac

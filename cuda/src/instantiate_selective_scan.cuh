#pragma once

#include "ssm/cuda/selective_scan.cuh"

#define SSM_INSTANTIATE_SELECTIVE_SCAN(T, ...)                                                  \
  template ScanConfig selective_scan_config(const Cuda&,                                        \
                                            const SelectiveScanArgs<T, __VA_ARGS__>&) noexcept; \
  template std::size_t workspace_bytes(const Cuda&,                                             \
                                       const SelectiveScanArgs<T, __VA_ARGS__>&) noexcept;      \
  template Status selective_scan(const Cuda&, const SelectiveScanArgs<T, __VA_ARGS__>&,         \
                                 const ScanConfig&);                                            \
  template Status selective_scan(const Cuda&, const SelectiveScanArgs<T, __VA_ARGS__>&);

#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "ssm/io/result.hpp"

SSM_NAMESPACE_BEGIN
namespace io {
namespace detail {

// The path as UTF-8, for messages.
inline std::string path_text(const std::filesystem::path& path) {
  const auto text = path.u8string();
  return std::string(text.begin(), text.end());
}

// "<path>: cannot <action>: <the system's reason>".
inline Result system_error(ErrorCode code, const std::filesystem::path& path, const char* action) {
#if defined(_WIN32)
  const std::string reason = "system error " + std::to_string(GetLastError());
#else
  const std::string reason = std::strerror(errno);
#endif
  return Result::error(code, path_text(path) + ": cannot " + action + ": " + reason);
}

// A whole file, mapped read-only. The bytes stay where they are when the object is moved. Changing
// or truncating the file while it is mapped is the caller's mistake: the system then delivers other
// bytes or a signal. Replacing it by rename, as AtomicFile does, is safe.
class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MappedFile() {
    if (data_ == nullptr) return;
#if defined(_WIN32)
    UnmapViewOfFile(data_);
#else
    munmap(data_, size_);
#endif
  }

  const unsigned char* data() const noexcept { return static_cast<const unsigned char*>(data_); }
  std::size_t size() const noexcept { return size_; }

  // An empty file maps to a null pointer of size 0.
  static Result open(const std::filesystem::path& path, MappedFile* file) {
    MappedFile mapped;
#if defined(_WIN32)
    const HANDLE handle =
        CreateFileW(path.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr,
                    OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
    if (handle == INVALID_HANDLE_VALUE) return system_error(ErrorCode::cannot_open, path, "open");
    LARGE_INTEGER size;
    if (!GetFileSizeEx(handle, &size)) {
      const Result failed = system_error(ErrorCode::cannot_read, path, "read the size");
      CloseHandle(handle);
      return failed;
    }
    if (size.QuadPart > 0) {
      const HANDLE mapping = CreateFileMappingW(handle, nullptr, PAGE_READONLY, 0, 0, nullptr);
      if (mapping != nullptr) {
        mapped.data_ = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
      }
      const Result failed = mapped.data_ == nullptr
                                ? system_error(ErrorCode::cannot_read, path, "map")
                                : Result::ok();
      if (mapping != nullptr) CloseHandle(mapping);
      if (!failed) {
        CloseHandle(handle);
        return failed;
      }
      mapped.size_ = static_cast<std::size_t>(size.QuadPart);
    }
    CloseHandle(handle);
#else
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return system_error(ErrorCode::cannot_open, path, "open");
    struct stat info;
    if (::fstat(descriptor, &info) != 0) {
      const Result failed = system_error(ErrorCode::cannot_read, path, "read the size");
      ::close(descriptor);
      return failed;
    }
    if (!S_ISREG(info.st_mode)) {
      ::close(descriptor);
      return Result::error(ErrorCode::cannot_open, path_text(path) + ": is not a regular file");
    }
    const auto size = static_cast<std::uint64_t>(info.st_size);
    if (size > std::numeric_limits<std::size_t>::max() / 2) {
      ::close(descriptor);
      return Result::error(ErrorCode::cannot_read, path_text(path) + ": has " +
                                                       std::to_string(size) +
                                                       " bytes, more than can be mapped here");
    }
    if (size > 0) {
      void* data =
          ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_PRIVATE, descriptor, 0);
      if (data == MAP_FAILED) {
        const Result failed = system_error(ErrorCode::cannot_read, path, "map");
        ::close(descriptor);
        return failed;
      }
      mapped.data_ = data;
      mapped.size_ = static_cast<std::size_t>(size);
    }
    ::close(descriptor);
#endif
    file->swap(mapped);
    return Result::ok();
  }

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace detail
}  // namespace io
SSM_NAMESPACE_END

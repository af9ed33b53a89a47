#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
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
  std::string_view text() const noexcept {
    return std::string_view(static_cast<const char*>(data_), size_);
  }

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

// A file that appears at its path whole or not at all: bytes go to a temporary file beside it,
// which commit() syncs to the disk and renames over the target, then syncs the directory. Until
// commit() has returned ok the old target, if any, is untouched; without commit() the temporary
// file is removed. A crash can leave only the temporary file, "<path>.<process>-<n>.tmp".
class AtomicFile {
 public:
  AtomicFile() = default;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    close();
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove(temporary_, ignored);
  }

  Result create(const std::filesystem::path& path) {
    constexpr int kAttempts = 100;
    path_ = path;
    if (path.filename().empty()) {
      return Result::error(ErrorCode::cannot_write, path_text(path) + ": names no file");
    }
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      std::filesystem::path candidate = path;
      candidate += "." + std::to_string(process_id()) + "-" + std::to_string(attempt) + ".tmp";
#if defined(_WIN32)
      handle_ = CreateFileW(candidate.c_str(), GENERIC_WRITE, 0, nullptr, CREATE_NEW,
                            FILE_ATTRIBUTE_NORMAL, nullptr);
      const bool taken = !is_open() && GetLastError() == ERROR_FILE_EXISTS;
#else
      handle_ = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      const bool taken = !is_open() && errno == EEXIST;
#endif
      if (is_open()) {
        temporary_ = candidate;
        return Result::ok();
      }
      if (!taken) return system_error(ErrorCode::cannot_write, candidate, "create");
    }
    return Result::error(ErrorCode::cannot_write,
                         path_text(path) + ": cannot write: " + std::to_string(kAttempts) +
                             " temporary files beside it are in the way");
  }

  // Small pieces are gathered into one system call.
  Result append(const void* data, std::size_t bytes) {
    constexpr std::size_t kGather = std::size_t{1} << 18;
    if (buffer_.size() + bytes <= kGather) {
      buffer_.append(static_cast<const char*>(data), bytes);
      return Result::ok();
    }
    const Result result = flush();
    return result ? write_all(data, bytes) : result;
  }

  Result commit() {
    const Result flushed = flush();
    if (!flushed) return flushed;
#if defined(_WIN32)
    if (!FlushFileBuffers(handle_)) {
      return system_error(ErrorCode::cannot_write, temporary_, "sync");
    }
    if (!close()) return system_error(ErrorCode::cannot_write, temporary_, "close");
    if (!MoveFileExW(temporary_.c_str(), path_.c_str(),
                     MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH)) {
      return system_error(ErrorCode::cannot_write, path_, "replace");
    }
    temporary_.clear();
    return Result::ok();
#else
    if (::fsync(handle_) != 0) return system_error(ErrorCode::cannot_write, temporary_, "sync");
    if (!close()) return system_error(ErrorCode::cannot_write, temporary_, "close");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      return system_error(ErrorCode::cannot_write, path_, "replace");
    }
    temporary_.clear();
    const std::filesystem::path parent = path_.parent_path();
    const std::filesystem::path directory = parent.empty() ? "." : parent;
    const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return system_error(ErrorCode::cannot_write, directory, "open");
    const Result result = ::fsync(descriptor) == 0
                              ? Result::ok()
                              : system_error(ErrorCode::cannot_write, directory, "sync");
    ::close(descriptor);
    return result;
#endif
  }

 private:
#if defined(_WIN32)
  using Handle = HANDLE;
  static Handle closed() { return INVALID_HANDLE_VALUE; }
  static unsigned long process_id() { return GetCurrentProcessId(); }
#else
  using Handle = int;
  static Handle closed() { return -1; }
  static long process_id() { return static_cast<long>(::getpid()); }
#endif
  Result flush() {
    const std::string pending = std::exchange(buffer_, std::string());
    return write_all(pending.data(), pending.size());
  }
  Result write_all(const void* data, std::size_t bytes) {
    constexpr std::size_t kMost = std::size_t{1} << 30;  // what every system takes in one call
    const auto* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const std::size_t wanted = bytes < kMost ? bytes : kMost;
#if defined(_WIN32)
      DWORD written = 0;
      if (!WriteFile(handle_, next, static_cast<DWORD>(wanted), &written, nullptr)) {
        return system_error(ErrorCode::cannot_write, temporary_, "write");
      }
#else
      const ssize_t written = ::write(handle_, next, wanted);
      if (written < 0) {
        if (errno == EINTR) continue;
        return system_error(ErrorCode::cannot_write, temporary_, "write");
      }
#endif
      next += written;
      bytes -= static_cast<std::size_t>(written);
    }
    return Result::ok();
  }
  bool is_open() const { return handle_ != closed(); }
  bool close() {
    if (!is_open()) return true;
    const Handle handle = std::exchange(handle_, closed());
#if defined(_WIN32)
    return CloseHandle(handle) != 0;
#else
    return ::close(handle) == 0;
#endif
  }

  Handle handle_ = closed();
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::string buffer_;
};

}  // namespace detail
}  // namespace io
SSM_NAMESPACE_END

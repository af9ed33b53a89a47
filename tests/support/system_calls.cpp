#include "support/system_calls.hpp"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SSM_TEST_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SSM_TEST_TSAN 1
#endif

#if defined(__linux__) && !defined(SSM_TEST_TSAN)

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace ssm_test {

bool can_forbid_system_calls() noexcept { return true; }

bool runs_without_system_calls(void (*f)(void* argument), void* argument) {
  const pid_t child = fork();
  if (child == 0) {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(2);
    f(argument);
    syscall(SYS_exit, 0);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

}  // namespace ssm_test

#else

namespace ssm_test {

bool can_forbid_system_calls() noexcept { return false; }
bool runs_without_system_calls(void (*)(void*), void*) { return false; }

}  // namespace ssm_test

#endif

#pragma once

#include <gtest/gtest.h>

#include "ssm/io/result.hpp"

// Fails the calling test unless a file was read.
#define SSM_ASSERT_READ(call)                  \
  do {                                         \
    const ::ssm::io::Result outcome = (call);  \
    ASSERT_TRUE(outcome) << outcome.message(); \
  } while (false)

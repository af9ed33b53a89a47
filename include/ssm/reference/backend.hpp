#pragma once

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

// The backend whose operations are the definitions: the equations in Eigen, for any scalar, written
// to be read. Every other backend is tested against it.
struct Reference {};

SSM_NAMESPACE_END

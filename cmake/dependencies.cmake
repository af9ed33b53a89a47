# ssm_find_dependency(<package> <target> <find_package options…>): finds the package unless the
# including project has its target already, and makes the target visible to that project too, since
# ssm::ssm links to it by name.
macro(ssm_find_dependency package target)
  if(NOT TARGET ${target})
    find_package(${package} ${ARGN})
    if(TARGET ${target})
      set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
    endif()
  endif()
endmacro()

# Reads the include graph and fails on an arrow that the layers do not allow, on a header that exists
# in no layer, on an include of a header that does not exist, and on a foreign header where it must
# not be. Run as  cmake -DROOTS="<include root>;<include root>" -DSCRATCH=<dir> -P layers.cmake;
# it first proves on made-up trees under SCRATCH that it sees each kind of fault.
cmake_minimum_required(VERSION 3.22)

# What a layer may include besides itself. A header directly under ssm/ is a layer of its own name.
set(may_include_fwd.hpp core)
set(may_include_version.hpp "")
set(may_include_owned.hpp core)
set(may_include_core "")
set(may_include_ops core)
set(may_include_lti core)
set(may_include_reference core ops)
set(may_include_cpu core ops)
set(may_include_cuda core ops)
set(may_include_block core ops)
set(may_include_model core ops block)
set(may_include_train core ops block model)
set(may_include_io core)
set(may_include_ssm.hpp core ops lti reference cpu block model)
set(for_everyone fwd.hpp version.hpp)

# Foreign headers, as a regular expression, that a layer must stay free of.
set(no_eigen "^(Eigen|unsupported/Eigen)/")
set(no_json "^nlohmann/")
set(no_stream "^(iostream|ostream|istream|sstream|fstream|iomanip)$")
set(no_cuda "^(cuda|cublas|cooperative_groups|cub/|thrust/)")

# Every header that the umbrella must lead to, but for those that a user asks for: they bring
# threads, or a BLAS.
set(umbrella_layers core ops lti reference cpu block model)
set(opt_in_headers ssm/cpu/thread_pool.hpp ssm/cpu/openmp.hpp ssm/cpu/cblas.hpp)

function(ssm_layer path out)
  string(REGEX MATCH "^ssm/([^/]+)" ignored "${path}")
  set(${out} "${CMAKE_MATCH_1}" PARENT_SCOPE)
endfunction()

# Appends one sentence per fault in the trees under `roots` to the list `out`.
function(ssm_check_layers roots out)
  set(faults)
  set(headers)
  foreach(root IN LISTS roots)
    file(GLOB_RECURSE found RELATIVE ${root} ${root}/ssm/*)
    foreach(header IN LISTS found)
      list(APPEND headers ${header})
      set(root_of_${header} ${root})
    endforeach()
  endforeach()
  if(NOT headers)
    list(APPEND faults "no header under ${roots}")
  endif()

  foreach(header IN LISTS headers)
    ssm_layer(${header} layer)
    if(NOT DEFINED may_include_${layer})
      list(APPEND faults "${header}: '${layer}' is not a layer")
      continue()
    endif()
    if(NOT header MATCHES "\\.(hpp|cuh)$")
      list(APPEND faults "${header}: a header ends in .hpp or .cuh")
    endif()
    set(forbidden ${no_stream})
    if(NOT layer STREQUAL "io")
      list(APPEND forbidden ${no_json})
    endif()
    if(header MATCHES "\\.cuh$" OR NOT layer MATCHES "^(reference|cpu|lti|ssm.hpp)$")
      list(APPEND forbidden ${no_eigen})
    endif()
    if(NOT layer STREQUAL "cuda")
      list(APPEND forbidden ${no_cuda})
    endif()

    set(includes_of_${header})
    file(STRINGS ${root_of_${header}}/${header} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[\"<]")
    foreach(line IN LISTS lines)
      string(REGEX REPLACE "^[^\"<]*[\"<]([^\">]*)[\">].*$" "\\1" target "${line}")
      if(NOT target MATCHES "^ssm/")
        foreach(pattern IN LISTS forbidden)
          if(target MATCHES "${pattern}")
            list(APPEND faults "${header}: must not include <${target}>")
          endif()
        endforeach()
        if(line MATCHES "\"")
          list(APPEND faults "${header}: \"${target}\" is spelled neither \"ssm/…\" nor <…>")
        endif()
        continue()
      endif()
      list(APPEND includes_of_${header} ${target})
      ssm_layer(${target} target_layer)
      if(NOT "${target}" IN_LIST headers)
        list(APPEND faults "${header}: includes ${target}, which does not exist")
      elseif(NOT "${target_layer}" IN_LIST for_everyone
             AND NOT "${target_layer}" STREQUAL "${layer}"
             AND NOT "${target_layer}" IN_LIST may_include_${layer})
        list(APPEND faults "${header}: layer '${layer}' must not include '${target_layer}' (${target})")
      endif()
    endforeach()
  endforeach()

  if("ssm/ssm.hpp" IN_LIST headers)
    set(reached ssm/ssm.hpp)
    set(frontier ssm/ssm.hpp)
    while(frontier)
      list(POP_FRONT frontier header)
      foreach(target IN LISTS includes_of_${header})
        if(NOT target IN_LIST reached)
          list(APPEND reached ${target})
          list(APPEND frontier ${target})
        endif()
      endforeach()
    endwhile()
    foreach(header IN LISTS headers)
      ssm_layer(${header} layer)
      if(layer IN_LIST umbrella_layers
         AND NOT header IN_LIST opt_in_headers
         AND NOT header IN_LIST reached)
        list(APPEND faults "${header}: not reached from ssm/ssm.hpp")
      endif()
    endforeach()
  endif()
  set(${out} "${faults}" PARENT_SCOPE)
endfunction()

# A tree of one faulty header (and what it needs) must give exactly the fault expected, and an empty
# expectation means none.
function(ssm_expect expected path content)
  file(REMOVE_RECURSE ${SCRATCH})
  file(WRITE ${SCRATCH}/ssm/core/view.hpp "#pragma once\n")
  file(WRITE ${SCRATCH}/ssm/ops/linear.hpp "#include \"ssm/core/view.hpp\"\n")
  file(WRITE ${SCRATCH}/ssm/cpu/linear.hpp "#include \"ssm/ops/linear.hpp\"\n")
  file(WRITE ${SCRATCH}/ssm/block/block.hpp "#include \"ssm/ops/linear.hpp\"\n")
  file(WRITE ${SCRATCH}/ssm/fwd.hpp "#pragma once\n")
  file(WRITE ${SCRATCH}/${path} "${content}\n")
  ssm_check_layers(${SCRATCH} faults)
  file(REMOVE_RECURSE ${SCRATCH})
  if(NOT "${faults}" STREQUAL "${expected}")
    message(FATAL_ERROR "the layer check is blind: ${path} with '${content}' gave\n  '${faults}'\n"
                        "instead of\n  '${expected}'")
  endif()
endfunction()

ssm_expect("" ssm/reference/linear.hpp "#include \"ssm/ops/linear.hpp\"\n#include <Eigen/Core>")
ssm_expect("" ssm/block/other.hpp "#include \"ssm/fwd.hpp\"\n// #include \"ssm/cpu/linear.hpp\"")
ssm_expect("ssm/ops/bad.hpp: layer 'ops' must not include 'cpu' (ssm/cpu/linear.hpp)"
           ssm/ops/bad.hpp "#include \"ssm/cpu/linear.hpp\"")
ssm_expect("ssm/reference/bad.hpp: layer 'reference' must not include 'cpu' (ssm/cpu/linear.hpp)"
           ssm/reference/bad.hpp "  #  include <ssm/cpu/linear.hpp>  // why")
ssm_expect("ssm/block/bad.hpp: layer 'block' must not include 'cpu' (ssm/cpu/linear.hpp)"
           ssm/block/bad.hpp "#include \"ssm/cpu/linear.hpp\"")
ssm_expect("ssm/io/bad.hpp: layer 'io' must not include 'ops' (ssm/ops/linear.hpp)" ssm/io/bad.hpp
           "#include \"ssm/ops/linear.hpp\"")
ssm_expect("ssm/core/bad.hpp: must not include <Eigen/Core>" ssm/core/bad.hpp "#include <Eigen/Core>")
ssm_expect("ssm/cuda/bad.cuh: must not include <Eigen/Dense>" ssm/cuda/bad.cuh
           "#include <Eigen/Dense>")
ssm_expect("ssm/cpu/bad.hpp: must not include <cuda_runtime.h>" ssm/cpu/bad.hpp
           "#include <cuda_runtime.h>")
ssm_expect("ssm/model/bad.hpp: must not include <nlohmann/json.hpp>" ssm/model/bad.hpp
           "#include <nlohmann/json.hpp>")
ssm_expect("ssm/lti/bad.hpp: must not include <iostream>" ssm/lti/bad.hpp "#include <iostream>")
ssm_expect("ssm/core/bad.hpp: \"view.hpp\" is spelled neither \"ssm/…\" nor <…>" ssm/core/bad.hpp
           "#include \"view.hpp\"")
ssm_expect("ssm/core/bad.hpp: includes ssm/core/none.hpp, which does not exist" ssm/core/bad.hpp
           "#include \"ssm/core/none.hpp\"")
ssm_expect("ssm/utils/bad.hpp: 'utils' is not a layer" ssm/utils/bad.hpp "#pragma once")
ssm_expect("ssm/core/bad.h: a header ends in .hpp or .cuh" ssm/core/bad.h "#pragma once")
ssm_expect("ssm/cpu/linear.hpp: not reached from ssm/ssm.hpp" ssm/ssm.hpp
           "#include \"ssm/block/block.hpp\"")

ssm_check_layers("${ROOTS}" faults)
if(faults)
  list(JOIN faults "\n  " faults)
  message(FATAL_ERROR "The include graph breaks the layers:\n  ${faults}")
endif()

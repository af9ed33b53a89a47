# Compiles microcontroller.cpp for a small profile, prints its code size and fails if it refers to
# anything that such a target does not have: a heap, threads, streams, exceptions, static guards.
#
#   cmake -DCOMPILER=… -DNM=… -DSIZE=… -DINCLUDE=… -DSOURCE=… -DOBJECT=… -P microcontroller.cmake
execute_process(
  COMMAND ${COMPILER} -std=c++17 -Os -fno-exceptions -fno-rtti -DSSM_SIMD_MAX_BYTES=0
          -ffunction-sections -Wall -Wextra -Werror -I${INCLUDE} -c ${SOURCE} -o ${OBJECT}
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${NM} --undefined-only ${OBJECT} OUTPUT_VARIABLE undefined
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[A-Za-z_][A-Za-z0-9_]*(\n|$)" symbols "${undefined}")
foreach(symbol IN LISTS symbols)
  string(STRIP "${symbol}" symbol)
  if(NOT symbol MATCHES "^(memset|memcpy|memmove|_GLOBAL_OFFSET_TABLE_|__stack_chk_fail)$")
    list(APPEND unexpected ${symbol})
  endif()
endforeach()
if(unexpected)
  message(FATAL_ERROR "needs symbols that a microcontroller does not have: ${unexpected}")
endif()
execute_process(COMMAND ${SIZE} ${OBJECT} COMMAND_ERROR_IS_FATAL ANY)

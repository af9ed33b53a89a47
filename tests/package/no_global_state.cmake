# Fails when an object file that includes every header holds a writable variable of ours.
execute_process(COMMAND ${NM} -C ${OBJECT} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]* [BbDdSsGgu] [^\n]*ssm::[^\n]*" ours "${symbols}")
if(ours)
  message(FATAL_ERROR "namespace-scope state in a header: ${ours}")
endif()

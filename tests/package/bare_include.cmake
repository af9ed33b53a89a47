# No build system at all: the compiler and two -I.
execute_process(COMMAND ${CXX} -std=c++17 -O1 -I${INCLUDE} -I${EIGEN} ${SOURCE} -o ${EXECUTABLE}
                COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${EXECUTABLE} COMMAND_ERROR_IS_FATAL ANY)

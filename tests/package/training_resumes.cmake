# Each program of examples/train once for six steps, and once for one and then, resumed, to six: both
# checkpoints hold the same bytes. What train_bytes writes, generate reads; and what the programs
# refuse, they refuse with a message.
cmake_minimum_required(VERSION 3.22)
file(REMOVE_RECURSE ${SCRATCH})
file(MAKE_DIRECTORY ${SCRATCH})

set(small --device reference --layers 1 --d-model 8 --batch 2 --validation 2 --log-every 1)

# ssm_run(<pattern> <program> <arguments…>): it must succeed and its output match.
function(ssm_run pattern)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${SCRATCH} RESULT_VARIABLE code
                  OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT code EQUAL 0 OR NOT out MATCHES "${pattern}")
    message(FATAL_ERROR "${ARGN} gave ${code}, not '${pattern}':\n${out}")
  endif()
endfunction()
# It must fail, and say so in these words.
function(ssm_refuse pattern)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY ${SCRATCH} RESULT_VARIABLE code
                  OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(code EQUAL 0 OR NOT out MATCHES "${pattern}")
    message(FATAL_ERROR "${ARGN} gave ${code}, not '${pattern}':\n${out}")
  endif()
endfunction()
function(ssm_same a b)
  execute_process(COMMAND ${CMAKE_COMMAND} -E compare_files ${SCRATCH}/${a} ${SCRATCH}/${b}
                  RESULT_VARIABLE code)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${a} and ${b} differ")
  endif()
endfunction()

foreach(name IN ITEMS INDUCTION_HEADS SELECTIVE_COPYING BYTES)
  set(run ${${name}} ${small} --length 32)
  if(name STREQUAL "BYTES")
    list(APPEND run --text ${TEXT} --held-out 0.2 --model ${SCRATCH}/model --warmup 2)
  endif()
  if(name STREQUAL "INDUCTION_HEADS")
    list(APPEND run --longest 64)
  endif()
  ssm_run("done at step 6" ${run} --steps 6 --checkpoint ${name}_one --csv ${name}_one.csv)
  ssm_run("done at step 6" ${run} --steps 6 --checkpoint ${name}_again)
  ssm_same(${name}_one ${name}_again)
  # Stopped by the clock after the first step.
  ssm_run("stopped at step 1 " ${run} --steps 6 --seconds 1e-9 --checkpoint ${name}_two
          --csv ${name}_two.csv)
  ssm_run("done at step 6" ${run} --steps 6 --resume --checkpoint ${name}_two
          --csv ${name}_two.csv)
  ssm_same(${name}_one ${name}_two)
  ssm_same(${name}_one.csv ${name}_two.csv)
  ssm_refuse("was written with seed '1', must be '2'" ${run} --steps 6 --seed 2 --resume
             --checkpoint ${name}_two)
  # At another length, from the parameters of the first training.
  ssm_run("steps 0 to 3 of 1 x 2 x 40 tokens" ${run} --length 40 --steps 3 --from ${name}_one)
  ssm_refuse("embeddings.weight is .*, must be" ${run} --d-model 9 --steps 3 --from ${name}_one)
  ssm_refuse("must be f32" ${run} --dtype f16)
  ssm_refuse("'--step' is not understood" ${run} --step 6)
  ssm_refuse("--batch is '0', must be" ${run} --batch 0)
  ssm_run("--checkpoint" ${run} --help)
endforeach()
ssm_refuse("gate 'yes', must be 'no'" ${SELECTIVE_COPYING} ${small} --length 32 --steps 6 --no-gate
           --resume --checkpoint SELECTIVE_COPYING_one)
ssm_refuse("is F32 .*, must be F32" ${SELECTIVE_COPYING} ${small} --length 32 --steps 6 --layers 1
           --d-state 8 --resume --checkpoint SELECTIVE_COPYING_one)
ssm_run("x.*generated 5 tokens" ${GENERATE} ${SCRATCH}/model --prompt x --tokens 5)
file(REMOVE_RECURSE ${SCRATCH})

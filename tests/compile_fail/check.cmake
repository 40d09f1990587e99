# Compiles ${source} twice with ${compiler}: as it is, which must fail with output that matches the regular expression after
# "// expect: " in its first line; and with LORA_CONTROL defined, which must compile. If the second line has "// flags: ",
# the first is compiled with these flags, and the first error must be the expected one.
file(STRINGS "${source}" first_line LIMIT_COUNT 1)
if(NOT first_line MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${source}: the first line must read // expect: REGULAR_EXPRESSION")
endif()
set(expected "${CMAKE_MATCH_1}")
file(STRINGS "${source}" flags LIMIT_COUNT 2 REGEX "^// flags: ")
string(REPLACE "// flags: " "" flags "${flags}")
separate_arguments(flags)
list(TRANSFORM includes PREPEND -I)

# Code is generated, not only checked, so that every template is instantiated.
function(compile result output)
  execute_process(
    COMMAND "${compiler}" -std=c++20 ${includes} ${ARGN} -S -o /dev/null "${source}"
    RESULT_VARIABLE status
    OUTPUT_VARIABLE text
    ERROR_VARIABLE text)
  set(${result} "${status}" PARENT_SCOPE)
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

compile(status text ${flags})
if(flags)
  string(REGEX MATCH "[^\n]*error:[^\n]*" text "${text}")
endif()
if(status EQUAL 0)
  message(FATAL_ERROR "${source} compiles, but must not")
endif()
if(NOT text MATCHES "${expected}")
  message(FATAL_ERROR "${source} fails as it must, but without the message '${expected}':\n${text}")
endif()

compile(status text -DLORA_CONTROL)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${source} must compile with LORA_CONTROL defined:\n${text}")
endif()

# SPDX-License-Identifier: Apache-2.0
# How the project's own targets are made: warnings, sanitizers, include root.

# A released program is the same bytes wherever it is built: __FILE__, debug information and with it
# the build id name files from the source and the build directory on. (Others keep the paths, which
# debuggers and editors find.)
function(qanat_map_paths directory name)
  if(CMAKE_BUILD_TYPE STREQUAL "Release")
    add_compile_options(-ffile-prefix-map=${directory}=${name})
  endif()
endfunction()
qanat_map_paths(${CMAKE_SOURCE_DIR} .)
qanat_map_paths(${CMAKE_BINARY_DIR} build)  # the last one that fits counts

add_library(qanat_options INTERFACE)
target_include_directories(qanat_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(qanat_options INTERFACE QANAT_VERSION="${PROJECT_VERSION}")
target_compile_options(qanat_options INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wimplicit-fallthrough -Wswitch -Werror
  -Wno-missing-field-initializers -fno-omit-frame-pointer)
find_program(QANAT_MOLD mold)
if(QANAT_MOLD)
  target_link_options(qanat_options INTERFACE -fuse-ld=mold)
endif()
if(QANAT_SANITIZE STREQUAL "address")
  target_compile_options(qanat_options INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-sanitize=vptr,function)
  target_link_options(qanat_options INTERFACE -fsanitize=address,undefined)
  if(QANAT_FUZZ)
    # Coverage in the libraries themselves: without it a fuzzer sees nothing of what it tries.
    target_compile_options(qanat_options INTERFACE -fsanitize=fuzzer-no-link)
  endif()
elseif(QANAT_SANITIZE STREQUAL "thread")
  target_compile_options(qanat_options INTERFACE -fsanitize=thread)
  target_link_options(qanat_options INTERFACE -fsanitize=thread)
elseif(NOT QANAT_SANITIZE STREQUAL "")
  message(FATAL_ERROR "QANAT_SANITIZE=${QANAT_SANITIZE}: expected nothing, address or thread")
endif()

find_program(QANAT_CCACHE ccache)
if(QANAT_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${QANAT_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${QANAT_CCACHE})
endif()

# qanat_library(name SRCS a.cc ... DEPS public_target ... PRIVATE_DEPS target ...)
# One per folder; `name` is the folder's path with underscores: common_net, controlplane_ca.
function(qanat_library name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(A_SRCS)
    add_library(${name} STATIC ${A_SRCS})
    target_link_libraries(${name} PUBLIC ${A_DEPS} PRIVATE qanat_options ${A_PRIVATE_DEPS})
    target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
    qanat_sanitizer_link(${name} PUBLIC)
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${A_DEPS})
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR})
  endif()
endfunction()

function(qanat_sanitizer_link name visibility)
  if(QANAT_SANITIZE STREQUAL "address")
    target_link_options(${name} ${visibility} -fsanitize=address,undefined)
  elseif(QANAT_SANITIZE STREQUAL "thread")
    target_link_options(${name} ${visibility} -fsanitize=thread)
  endif()
endfunction()

# qanat_program(qanat-agent SRCS main.cc DEPS ...): ends up in <build>/bin.
function(qanat_program name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE qanat_options ${A_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# qanat_test(net_address_test SRCS address_test.cc DEPS common_net [LABEL unit] [TIMEOUT 60] [SHARDS 4])
# With SHARDS its cases are spread over so many processes and tests, NAME_1 and so on.
# Every test binary is a GoogleTest program with gtest_main; labels: unit, integration, bpf, netns,
# interop. Tests that need root fail without it: they never skip.
function(qanat_test name)
  cmake_parse_arguments(A "" "LABEL;TIMEOUT;SHARDS" "SRCS;DEPS;ENVIRONMENT" ${ARGN})
  if(NOT A_LABEL)
    set(A_LABEL unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 60)
  endif()
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE qanat_options ${A_DEPS} GTest::gmock GTest::gtest_main)
  if(NOT A_SHARDS)
    set(A_SHARDS 1)
  endif()
  foreach(number RANGE 1 ${A_SHARDS})
    set(test ${name})
    set(environment ${A_ENVIRONMENT})
    if(A_SHARDS GREATER 1)
      set(test ${name}_${number})
      math(EXPR index "${number} - 1")
      list(APPEND environment GTEST_TOTAL_SHARDS=${A_SHARDS} GTEST_SHARD_INDEX=${index})
    endif()
    add_test(NAME ${test} COMMAND ${name})
    set_tests_properties(${test} PROPERTIES LABELS ${A_LABEL} TIMEOUT ${A_TIMEOUT}
      ENVIRONMENT "${environment}")
    if(A_LABEL MATCHES "bpf|netns|interop")
      set_tests_properties(${test} PROPERTIES RUN_SERIAL ON)
    endif()
  endforeach()
endfunction()

# qanat_fuzzer(fuzz_zds SRCS fuzz_zds.cc DEPS ... CORPUS dir): run for a few seconds as a test.
function(qanat_fuzzer name)
  cmake_parse_arguments(A "" "CORPUS;SECONDS" "SRCS;DEPS" ${ARGN})
  if(NOT QANAT_FUZZ)
    return()
  endif()
  if(NOT A_SECONDS)
    set(A_SECONDS 5)
  endif()
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE qanat_options ${A_DEPS})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/${A_CORPUS})
  # The first directory is where new inputs go: a scratch one, so that the tree stays as committed.
  set(scratch ${CMAKE_CURRENT_BINARY_DIR}/${name}.corpus)
  add_test(NAME ${name} COMMAND sh -c
    "mkdir -p '${scratch}' && exec '$<TARGET_FILE:${name}>' -max_total_time=${A_SECONDS} -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix='${CMAKE_CURRENT_BINARY_DIR}/' '${scratch}' '${corpus}'")
  set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()

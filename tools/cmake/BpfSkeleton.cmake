# SPDX-License-Identifier: Apache-2.0
# bpf_skeleton(name a.bpf.c b.bpf.c ...): compiles each file, links them to one object and
# generates <name>.skel.h; the INTERFACE target <name>_skel carries the include path and libbpf.
find_program(BPFTOOL bpftool PATHS /usr/sbin REQUIRED)
find_program(BPF_CLANG NAMES clang-19 clang-16 clang-14 clang REQUIRED)

function(bpf_skeleton name)
  set(sources ${ARGN})
  list(TRANSFORM sources PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  bpf_skeleton_of(${name} ${name} "" "" ${sources})
  set_target_properties(${name}_skel PROPERTIES QANAT_SOURCES "${sources}")
endfunction()

# The same as <target>_skel, with headers below `first` before the project's (they are made by who
# makes `depends`). For tests that need another edition of the programs.
function(bpf_skeleton_of name target first depends)
  set(objects)
  set(include)
  if(first)
    set(include -I${first})
  endif()
  foreach(src ${ARGN})
    get_filename_component(stem ${src} NAME_WE)
    set(o ${CMAKE_CURRENT_BINARY_DIR}/${name}.${stem}.o)
    add_custom_command(OUTPUT ${o}
      COMMAND ${BPF_CLANG} -g -O2 -mcpu=v3 -target bpf -Wall -Werror
        -ffile-prefix-map=${CMAKE_SOURCE_DIR}=. -ffile-prefix-map=${CMAKE_BINARY_DIR}=build
        -D__TARGET_ARCH_x86 ${include} -I${CMAKE_SOURCE_DIR} -MMD -MF ${o}.d -MT ${o}
        -c ${src} -o ${o}
      DEPENDS ${src} ${depends} DEPFILE ${o}.d COMMENT "BPF ${target} ${stem}" VERBATIM)
    list(APPEND objects ${o})
  endforeach()
  set(linked ${CMAKE_CURRENT_BINARY_DIR}/${name}.bpf.o)
  set(header ${CMAKE_CURRENT_BINARY_DIR}/${name}.skel.h)
  add_custom_command(OUTPUT ${header} ${linked}
    COMMAND ${BPFTOOL} gen object ${linked} ${objects}
    COMMAND sh -c "${BPFTOOL} gen skeleton ${linked} name ${name} > ${header}"
    DEPENDS ${objects} COMMENT "BPF skeleton ${target}" VERBATIM)
  add_custom_target(${target}_skel_gen DEPENDS ${header})
  add_library(${target}_skel INTERFACE)
  add_dependencies(${target}_skel ${target}_skel_gen)
  target_include_directories(${target}_skel SYSTEM INTERFACE ${CMAKE_CURRENT_BINARY_DIR})
  target_link_libraries(${target}_skel INTERFACE PkgConfig::LIBBPF)
endfunction()

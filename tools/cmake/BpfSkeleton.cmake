# SPDX-License-Identifier: Apache-2.0
# bpf_skeleton(name a.bpf.c b.bpf.c ...): compiles each file, links them to one object and
# generates <name>.skel.h; the INTERFACE target <name>_skel carries the include path and libbpf.
find_program(BPFTOOL bpftool PATHS /usr/sbin REQUIRED)
find_program(BPF_CLANG NAMES clang-19 clang-16 clang-14 clang REQUIRED)

function(bpf_skeleton name)
  set(objects)
  foreach(src ${ARGN})
    get_filename_component(stem ${src} NAME_WE)
    set(o ${CMAKE_CURRENT_BINARY_DIR}/${name}.${stem}.o)
    add_custom_command(OUTPUT ${o}
      COMMAND ${BPF_CLANG} -g -O2 -mcpu=v3 -target bpf -Wall -Werror
        -ffile-prefix-map=${CMAKE_SOURCE_DIR}=. -ffile-prefix-map=${CMAKE_BINARY_DIR}=build
        -D__TARGET_ARCH_x86 -I${CMAKE_SOURCE_DIR} -MMD -MF ${o}.d -MT ${o}
        -c ${CMAKE_CURRENT_SOURCE_DIR}/${src} -o ${o}
      DEPENDS ${src} DEPFILE ${o}.d COMMENT "BPF ${src}" VERBATIM)
    list(APPEND objects ${o})
  endforeach()
  set(linked ${CMAKE_CURRENT_BINARY_DIR}/${name}.bpf.o)
  set(header ${CMAKE_CURRENT_BINARY_DIR}/${name}.skel.h)
  add_custom_command(OUTPUT ${header} ${linked}
    COMMAND ${BPFTOOL} gen object ${linked} ${objects}
    COMMAND sh -c "${BPFTOOL} gen skeleton ${linked} name ${name} > ${header}"
    DEPENDS ${objects} COMMENT "BPF skeleton ${name}" VERBATIM)
  add_custom_target(${name}_skel_gen DEPENDS ${header})
  add_library(${name}_skel INTERFACE)
  add_dependencies(${name}_skel ${name}_skel_gen)
  target_include_directories(${name}_skel SYSTEM INTERFACE ${CMAKE_CURRENT_BINARY_DIR})
  target_link_libraries(${name}_skel INTERFACE PkgConfig::LIBBPF)
endfunction()

# SPDX-License-Identifier: Apache-2.0
# Every outside library. Debian packages are found as they are; BoringSSL and Envoy's API are
# built once by tools/deps/*.sh into a cache and imported from there.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)  # module mode: protobuf 3.21 has no CMake package in Debian
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(tl-expected REQUIRED)
find_package(GTest REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
pkg_check_modules(LIBBPF REQUIRED IMPORTED_TARGET libbpf)
pkg_check_modules(NGHTTP2 REQUIRED IMPORTED_TARGET libnghttp2)
pkg_check_modules(RE2 REQUIRED IMPORTED_TARGET re2)
pkg_check_modules(MNL REQUIRED IMPORTED_TARGET libmnl)
pkg_check_modules(FYAML REQUIRED IMPORTED_TARGET libfyaml)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
if(QANAT_CONTROLPLANE)
  find_package(ZLIB REQUIRED)  # gRPC's targets name these
  find_package(OpenSSL REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
endif()

# A program with the property QANAT_STATIC links archives where the others link shared libraries:
# the CNI plugin runs on the node, outside any image.
foreach(target PkgConfig::NGHTTP2 PkgConfig::FYAML)
  get_target_property(libraries ${target} INTERFACE_LINK_LIBRARIES)
  set(choices)
  foreach(shared ${libraries})
    string(REGEX REPLACE "\\.so$" ".a" archive "${shared}")
    list(APPEND choices "$<IF:$<BOOL:$<TARGET_PROPERTY:QANAT_STATIC>>,${archive},${shared}>")
  endforeach()
  set_property(TARGET ${target} PROPERTY INTERFACE_LINK_LIBRARIES "${choices}")
endforeach()
string(REGEX REPLACE "\\.so$" ".a" protobuf_archive "${Protobuf_LIBRARY_RELEASE}")
add_library(qanat_protobuf INTERFACE)
if(EXISTS ${protobuf_archive})
  target_link_libraries(qanat_protobuf INTERFACE
    $<IF:$<BOOL:$<TARGET_PROPERTY:QANAT_STATIC>>,${protobuf_archive},protobuf::libprotobuf>)
else()
  target_link_libraries(qanat_protobuf INTERFACE protobuf::libprotobuf)
endif()
add_library(fmt_static STATIC EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tools/cmake/fmt_static.cc)
add_library(qanat_fmt INTERFACE)
target_link_libraries(qanat_fmt INTERFACE
  $<IF:$<BOOL:$<TARGET_PROPERTY:QANAT_STATIC>>,fmt_static,fmt::fmt>)

function(qanat_built_dependency script variable)
  if(NOT ${variable})
    execute_process(
      COMMAND ${CMAKE_COMMAND} -E env CC=${CMAKE_C_COMPILER} CXX=${CMAKE_CXX_COMPILER}
        bash ${CMAKE_SOURCE_DIR}/tools/deps/${script}
      OUTPUT_VARIABLE dir OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
    if(failed)
      message(FATAL_ERROR "tools/deps/${script} failed; its message is above")
    endif()
    set(${variable} ${dir} PARENT_SCOPE)
  endif()
endfunction()

# Any checkout built the same way can be given with -DBORINGSSL_ROOT=... .
qanat_built_dependency(boringssl.sh BORINGSSL_ROOT)
add_library(boringssl INTERFACE)
target_include_directories(boringssl SYSTEM INTERFACE ${BORINGSSL_ROOT}/include)
target_compile_definitions(boringssl INTERFACE BORINGSSL_PREFIX=qanat)
target_link_libraries(boringssl INTERFACE
  ${BORINGSSL_ROOT}/libssl.a ${BORINGSSL_ROOT}/libcrypto.a Threads::Threads)

qanat_built_dependency(envoy_api.sh ENVOY_API_ROOT)
add_library(envoy_api INTERFACE)
target_include_directories(envoy_api SYSTEM INTERFACE ${ENVOY_API_ROOT}/include)
target_link_libraries(envoy_api INTERFACE ${ENVOY_API_ROOT}/libenvoy_api.a protobuf::libprotobuf)
set(ENVOY_API_DIR ${ENVOY_API_ROOT}/include)  # ads.grpc.pb.cc and envoy_api.binpb lie here

# Their headers lie in a cache that is elsewhere on each machine.
qanat_map_paths(${BORINGSSL_ROOT} boringssl)
qanat_map_paths(${ENVOY_API_ROOT} envoy-api)

# llhttp comes as C source with Debian's node-llhttp.
set(LLHTTP_DIR /usr/share/llhttp)
find_path(LLHTTP_INCLUDE llhttp.h PATHS /usr/share/include/llhttp /usr/include/llhttp
  /usr/share/llhttp NO_DEFAULT_PATH REQUIRED)
add_library(llhttp STATIC ${LLHTTP_DIR}/api.c ${LLHTTP_DIR}/http.c ${LLHTTP_DIR}/llhttp.c)
target_include_directories(llhttp SYSTEM PUBLIC ${LLHTTP_INCLUDE})
target_compile_options(llhttp PRIVATE -w -O2)

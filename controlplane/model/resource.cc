// SPDX-License-Identifier: Apache-2.0
#include "controlplane/model/resource.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/message_lite.h>

#include <cstdint>

#include "common/tls/crypto.h"

namespace qanat::controlplane {
namespace {

using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;

constexpr uint32_t Tag(uint32_t field) { return field << 3 | 2; }  // length-delimited

void Field(CodedOutputStream& out, uint32_t field, std::string_view bytes) {
  out.WriteTag(Tag(field));
  out.WriteVarint32(static_cast<uint32_t>(bytes.size()));
  out.WriteRaw(bytes.data(), static_cast<int>(bytes.size()));
}

}  // namespace

Resource MakeResource(std::string_view type_url, std::string name, std::vector<std::string> aliases,
                      std::string_view body) {
  std::string content;  // everything but the version, which is its hash
  {
    std::string any;
    {
      StringOutputStream stream(&any);
      CodedOutputStream out(&stream);
      Field(out, 1, type_url);
      if (!body.empty()) Field(out, 2, body);
    }
    StringOutputStream stream(&content);
    CodedOutputStream out(&stream);
    Field(out, 2, any);
    Field(out, 3, name);
    for (const std::string& alias : aliases) Field(out, 4, alias);
  }
  Resource resource;
  resource.name = std::move(name);
  resource.aliases = std::move(aliases);
  resource.version = tls::Sha256Hex(content).substr(0, 32);
  std::string wire;
  {
    StringOutputStream stream(&wire);
    CodedOutputStream out(&stream);
    Field(out, 1, resource.version);
    out.WriteRaw(content.data(), static_cast<int>(content.size()));
  }
  resource.wire = std::make_shared<const std::string>(std::move(wire));
  return resource;
}

Resource MakeResource(std::string_view type_url, std::string name, std::vector<std::string> aliases,
                      const google::protobuf::MessageLite& body) {
  std::string bytes;
  {
    StringOutputStream stream(&bytes);
    CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    body.SerializeToCodedStream(&out);
  }
  return MakeResource(type_url, std::move(name), std::move(aliases), bytes);
}

}  // namespace qanat::controlplane

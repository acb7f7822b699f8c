// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/proto_util.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

namespace qanat::controlplane {

void PackInto(google::protobuf::Any* any, const google::protobuf::MessageLite& message) {
  any->set_type_url("type.googleapis.com/" + message.GetTypeName());
  google::protobuf::io::StringOutputStream bytes(any->mutable_value());
  google::protobuf::io::CodedOutputStream coded(&bytes);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
}

}  // namespace qanat::controlplane

# SPDX-License-Identifier: Apache-2.0
"""Protocol buffers on the wire, and the messages of a node proxy: ZDS, delta xDS, workloads,
authorization, certificates. A message is a dict; what the schema does not know is kept under "?"."""
import json
import struct

# type: string bytes bool int double, a message's name, or (key type, value type) of a map.
# A leading * is repeated.
SCHEMA = {
    # ZDS
    "ZdsHello": {"version": (1, "int")},
    "WorkloadInfo": {"name": (1, "string"), "namespace": (2, "string"), "service_account": (3, "string")},
    "AddWorkload": {"uid": (1, "string"), "workload_info": (2, "WorkloadInfo")},
    "KeepWorkload": {"uid": (1, "string")},
    "DelWorkload": {"uid": (2, "string")},
    "SnapshotSent": {},
    "WorkloadRequest": {"add": (1, "AddWorkload"), "del": (2, "DelWorkload"), "snapshot_sent": (3, "SnapshotSent"),
                        "keep": (5, "KeepWorkload")},
    "Ack": {"error": (1, "string")},
    "WorkloadResponse": {"ack": (1, "Ack")},
    # google.protobuf and google.rpc
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "Struct": {"fields": (1, ("string", "Value"))},
    "Value": {"null": (1, "int"), "number": (2, "double"), "string": (3, "string"), "bool": (4, "bool"),
              "struct": (5, "Struct"), "list": (6, "ListValue")},
    "ListValue": {"values": (1, "*Value")},
    "UInt32Value": {"value": (1, "int")},
    "Empty": {},
    "Status": {"code": (1, "int"), "message": (2, "string"), "details": (3, "*Any")},
    # delta xDS
    "Node": {"id": (1, "string"), "cluster": (2, "string"), "metadata": (3, "Struct"), "build_version": (5, "string")},
    "DeltaDiscoveryRequest": {"node": (1, "Node"), "type_url": (2, "string"), "subscribe": (3, "*string"),
                              "unsubscribe": (4, "*string"), "initial_resource_versions": (5, ("string", "string")),
                              "response_nonce": (6, "string"), "error_detail": (7, "Status")},
    "Resource": {"version": (1, "string"), "resource": (2, "Any"), "name": (3, "string"), "aliases": (4, "*string")},
    "DeltaDiscoveryResponse": {"system_version_info": (1, "string"), "resources": (2, "*Resource"), "type_url": (4, "string"),
                               "nonce": (5, "string"), "removed_resources": (6, "*string")},
    # istio.workload
    "Address": {"workload": (1, "Workload"), "service": (2, "Service")},
    "NetworkAddress": {"network": (1, "string"), "address": (2, "bytes"), "length": (3, "int")},
    "NamespacedHostname": {"namespace": (1, "string"), "hostname": (2, "string")},
    "GatewayAddress": {"hostname": (1, "NamespacedHostname"), "address": (2, "NetworkAddress"), "hbone_mtls_port": (3, "int")},
    "Port": {"service_port": (1, "int"), "target_port": (2, "int"), "app_protocol": (3, "int")},
    "PortList": {"ports": (1, "*Port")},
    "Service": {"name": (1, "string"), "namespace": (2, "string"), "hostname": (3, "string"), "addresses": (4, "*NetworkAddress"),
                "ports": (5, "*Port"), "subject_alt_names": (6, "*string"), "waypoint": (7, "GatewayAddress")},
    "Workload": {"name": (1, "string"), "namespace": (2, "string"), "addresses": (3, "*bytes"), "network": (4, "string"),
                 "tunnel_protocol": (5, "int"), "trust_domain": (6, "string"), "service_account": (7, "string"),
                 "waypoint": (8, "GatewayAddress"), "node": (9, "string"), "canonical_name": (10, "string"),
                 "canonical_revision": (11, "string"), "workload_type": (12, "int"), "workload_name": (13, "string"),
                 "native_tunnel": (14, "bool"), "authorization_policies": (16, "*string"), "status": (17, "int"),
                 "cluster_id": (18, "string"), "uid": (20, "string"), "hostname": (21, "string"),
                 "network_gateway": (19, "GatewayAddress"), "services": (22, ("string", "PortList")),
                 "application_tunnel": (23, "ApplicationTunnel"), "locality": (24, "Locality")},
    "ApplicationTunnel": {"protocol": (1, "int"), "port": (2, "int")},
    "Locality": {"region": (1, "string"), "zone": (2, "string"), "subzone": (3, "string")},
    # istio.security
    "Authorization": {"name": (1, "string"), "namespace": (2, "string"), "scope": (3, "int"), "action": (4, "int"),
                      "rules": (5, "*Rule"), "dry_run": (6, "bool")},
    "Rule": {"clauses": (1, "*Clause")},
    "Clause": {"matches": (2, "*Match")},
    "Match": {"namespaces": (1, "*StringMatch"), "not_namespaces": (2, "*StringMatch"), "principals": (3, "*StringMatch"),
              "not_principals": (4, "*StringMatch"), "destination_ports": (9, "*int"), "not_destination_ports": (10, "*int")},
    "StringMatch": {"exact": (1, "string"), "prefix": (2, "string"), "suffix": (3, "string"), "presence": (4, "Empty")},
    # istio.v1.auth
    "CertificateRequest": {"csr": (1, "string"), "validity_duration": (3, "int"), "metadata": (4, "Struct")},
    "CertificateResponse": {"cert_chain": (1, "*string")},
}


class WireError(Exception):
    pass


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data, at):
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("varint is cut")
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value & ((1 << 64) - 1), at
    raise WireError("varint is too long")


def _field(number, kind, value):
    if kind in ("int", "bool"):
        return varint(number << 3) + varint(int(value))
    if kind == "double":
        return varint(number << 3 | 1) + struct.pack("<d", value)
    raw = value.encode() if kind == "string" else bytes(value) if kind == "bytes" else encode(kind, value)
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def encode(message, fields):
    """Everything that is named is written, also when it is the default."""
    schema, out = SCHEMA[message], b""
    for name, value in fields.items():
        number, kind = schema[name]
        if isinstance(kind, tuple):
            for key, item in value.items():
                entry = _field(1, kind[0], key) + _field(2, kind[1], item)
                out += varint(number << 3 | 2) + varint(len(entry)) + entry
        elif kind.startswith("*"):
            out += b"".join(_field(number, kind[1:], item) for item in value)
        else:
            out += _field(number, kind, value)
    return out


def fields_of(data):
    """(number, wire type, value) of each field."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        if tag >> 3 == 0:
            raise WireError("field 0")
        if tag & 7 == 0:
            value, at = read_varint(data, at)
        elif tag & 7 in (1, 5):
            size = 8 if tag & 7 == 1 else 4
            value, at = bytes(data[at:at + size]), at + size
        elif tag & 7 == 2:
            size, at = read_varint(data, at)
            value, at = bytes(data[at:at + size]), at + size
        else:
            raise WireError(f"wire type {tag & 7}")
        if at > len(data):
            raise WireError("field is cut")
        yield tag >> 3, tag & 7, value


def _value(kind, wire, value):
    if kind in ("int", "bool"):
        wanted = 0
    else:
        wanted = 1 if kind == "double" else 2
    if wire != wanted:
        raise WireError(f"wire type {wire} for {kind}")
    if kind == "int":
        return value
    if kind == "bool":
        return bool(value)
    if kind == "double":
        return struct.unpack("<d", value)[0]
    return value.decode() if kind == "string" else value if kind == "bytes" else decode(kind, value)


def _default(kind):
    return {"string": "", "bytes": b"", "int": 0, "bool": False, "double": 0.0}.get(kind, {})


def decode(message, data):
    by_number = {number: (name, kind) for name, (number, kind) in SCHEMA[message].items()}
    out = {}
    for number, wire, value in fields_of(data):
        if number not in by_number:
            out.setdefault("?", []).append((number, wire, value))
            continue
        name, kind = by_number[number]
        if isinstance(kind, tuple):
            entry = {n: (w, v) for n, w, v in fields_of(value)}
            key = _value(kind[0], *entry[1]) if 1 in entry else _default(kind[0])
            out.setdefault(name, {})[key] = _value(kind[1], *entry[2]) if 2 in entry else _default(kind[1])
        elif kind.startswith("*"):
            if kind == "*int" and wire == 2:  # packed
                at = 0
                while at < len(value):
                    item, at = read_varint(value, at)
                    out.setdefault(name, []).append(item)
            else:
                out.setdefault(name, []).append(_value(kind[1:], wire, value))
        else:
            out[name] = _value(kind, wire, value)
    return out


def unknown_fields(message, path=""):
    """Where a decoded message has fields that the schema does not know."""
    found = [f"{path}{number}" for number, _, _ in message.get("?", [])]
    for name, value in message.items():
        items = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []
        for item in ([value] if isinstance(value, dict) else []) + items:
            if isinstance(item, dict):
                found += unknown_fields(item, f"{path}{name}.")
    return sorted(set(found))


def from_struct(message):
    """A google.protobuf.Struct as Python's values."""
    def value(item):
        if "struct" in item:
            return from_struct(item["struct"])
        if "list" in item:
            return [value(i) for i in item["list"].get("values", [])]
        return next((item[kind] for kind in ("string", "number", "bool") if kind in item), None)
    return {name: value(item) for name, item in message.get("fields", {}).items()}


def show(message):
    return json.dumps(message, default=lambda raw: raw.hex() if isinstance(raw, bytes) else str(raw))

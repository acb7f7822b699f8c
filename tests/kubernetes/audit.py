# SPDX-License-Identifier: Apache-2.0
"""What our accounts may do against what they do: rules of RBAC on one side, the API server's audit log on the
other, both as (account, verb, resource, name), where the name is "" if the rule has none."""
import json

from harness import SYSTEM
from testbed.tools import read

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def granted(bench):
    """What roles give to the service accounts of our namespace."""
    found = set()
    for scope, kind in (("", "clusterrole"), (f"/namespaces/{SYSTEM}", "role")):
        for binding in bench.get(f"{RBAC}{scope}/{kind}bindings")["items"]:
            accounts = [s["name"] for s in binding.get("subjects", [])
                        if s["kind"] == "ServiceAccount" and s.get("namespace") == SYSTEM]
            if not accounts:
                continue
            place = f"/namespaces/{SYSTEM}" if binding["roleRef"]["kind"] == "Role" else ""
            role = bench.get(f"{RBAC}{place}/{binding['roleRef']['kind'].lower()}s/{binding['roleRef']['name']}")
            for rule in role["rules"]:
                found.update((account, verb, full(group, resource), name) for account in accounts for verb in rule["verbs"]
                             for group in rule["apiGroups"] for resource in rule["resources"]
                             for name in rule.get("resourceNames", [""]))
    return found


def full(group, resource):
    return f"{resource}.{group}" if group else resource


def asked(bench):
    """(what they asked, what of it was forbidden). An apply that made its object is a create as well."""
    done, refused = set(), set()
    for line in read(bench.cluster.path("log", "audit.log")).splitlines():
        event = json.loads(line)
        account = event["user"]["username"].removeprefix(f"system:serviceaccount:{SYSTEM}:")
        if account == event["user"]["username"] or "objectRef" not in event:
            continue
        about, code = event["objectRef"], event.get("responseStatus", {}).get("code")
        resource = about["resource"] + ("/" + about["subresource"] if "subresource" in about else "")
        verbs = [event["verb"]] + (["create"] if event["verb"] == "patch" and code == 201 else [])
        for verb in verbs:
            done.add((account, verb, full(about.get("apiGroup", ""), resource), about.get("name", "")))
        if code == 403:
            refused.add((account, event["verb"], full(about.get("apiGroup", ""), resource), about.get("name", "")))
    return done, refused


def unused(rules, seen):
    return {rule for rule in rules if not any(each[:3] == rule[:3] and rule[3] in ("", each[3]) for each in seen)}

# SPDX-License-Identifier: Apache-2.0
"""Writes one container image as an OCI image layout in a tar archive, the same bytes every time.

An Image is layers of files (given as path -> File); nothing of the machine gets in: entries are
sorted, times are 0, the owner is root, compression has no time stamp. The archive is read by
`ctr images import`, `skopeo copy oci-archive:`, `podman load` and, by its manifest.json,
`docker load`.
"""
import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclasses.dataclass(frozen=True)
class File:
    data: bytes = b""
    mode: int = 0o644
    directory: bool = False


def _entry(name, size=0, mode=0o644, directory=False):
    info = tarfile.TarInfo(name + ("/" if directory else ""))
    info.size, info.mode, info.mtime = size, mode, 0
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return info


def tar_of(files):
    """A tar of path -> File, with the directories above each file."""
    entries = dict(files)
    for path in files:
        while path := os.path.dirname(path):
            entries.setdefault(path, File(mode=0o755, directory=True))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, file in sorted(entries.items()):
            tar.addfile(_entry(path, len(file.data), file.mode, file.directory),
                        io.BytesIO(file.data))
    return out.getvalue()


def _digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write(path, name, architecture, layers, config, annotations):
    """Writes the archive; returns (digest of the manifest, bytes unpacked).

    `name` is the whole reference, registry/repository:tag; `layers` a list of path -> File from the
    lowest up; `config` the image's Entrypoint, User, Env; `annotations` go to the manifest.
    """
    blobs, described, diff_ids, unpacked = {}, [], [], 0

    def add(data, media_type):
        blobs[_digest(data)] = data
        return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}

    for layer in layers:
        tar = tar_of(layer)
        diff_ids.append(_digest(tar))
        unpacked += len(tar)
        described.append(add(gzip.compress(tar, compresslevel=6, mtime=0), LAYER))
    image = add(_json({
        "architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }), CONFIG)
    manifest = add(_json({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": image, "layers": described,
        "annotations": annotations,
    }), MANIFEST)
    # containerd names the image by the first annotation, other tools by the second.
    manifest["annotations"] = {"io.containerd.image.name": name,
                               "org.opencontainers.image.ref.name": name}
    manifest["platform"] = {"architecture": architecture, "os": "linux"}

    def blob(digest):
        return "blobs/" + digest.replace(":", "/")

    members = {blob(digest): File(data) for digest, data in blobs.items()}
    members["oci-layout"] = File(_json({"imageLayoutVersion": "1.0.0"}))
    members["index.json"] = File(_json(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}))
    members["manifest.json"] = File(_json([{
        "Config": blob(image["digest"]), "RepoTags": [name],
        "Layers": [blob(layer["digest"]) for layer in described]}]))
    partial = path + ".part"
    with open(partial, "wb") as out:
        out.write(tar_of(members))
    os.rename(partial, path)
    return manifest["digest"], unpacked

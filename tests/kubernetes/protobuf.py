"""Helm's release records: it sends Secrets as protobuf (``k8s.io/apimachinery``, ``runtime.Unknown``)."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from tests.kubernetes.kinds import Object


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the length-delimited fields of a protobuf message; numbers are passed over."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 2:
            size = number()
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            number()


def secret(raw: bytes) -> Object:
    """Decode a Secret (``k8s.io/api/core/v1/generated.proto``) behind the four bytes of Kubernetes's protobuf."""
    metadata: Object = {"labels": {}}
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {}}
    for field, value in _fields(dict(_fields(raw[4:]))[2]):
        if field == 1:
            for part, text in _fields(value):
                if part == 1:
                    metadata["name"] = text.decode()
                elif part == 11:
                    entry = dict(_fields(text))
                    metadata["labels"][entry[1].decode()] = entry.get(2, b"").decode()
        elif field == 2:
            entry = dict(_fields(value))
            secret["data"][entry[1].decode()] = base64.b64encode(entry.get(2, b"")).decode()
        elif field == 3:
            secret["type"] = value.decode()
    return secret

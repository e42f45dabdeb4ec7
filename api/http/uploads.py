"""Reading a ``multipart/form-data`` upload as a stream (RFC 7578): the file goes to storage piece by piece."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from api.http.asgi import header
from api.http.body import announced_bytes
from api.http.errors import ApiError, invalid
from api.http.hangup import ClientGoneError
from storage import Storage, Writer
from storage.base import BLOCK

MAX_FIELD_BYTES = 16 * 1024
MAX_FIELDS = 32


@dataclass(slots=True)
class Upload:
    """A form: its text fields by name, and one file, which is in storage but not committed.

    Attributes:
        fields: the text fields.
        lists: those whose names end with ``[]``, which may come several times.
        filename: the file's; None: the form has no file.
        digest: SHA-256 of the file.
        size: of the file in bytes.
    """

    fields: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    filename: str | None = None
    digest: str = ""
    size: int = 0


class _Form:
    """Takes the parser's events. It holds the file's bytes until the caller has written them."""

    def __init__(self) -> None:
        self.upload = Upload()
        self.pending: list[bytes] = []
        self.pending_size = 0
        self.done = False
        self._hash = hashlib.sha256()
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._is_file = False
        self._text: list[bytes] = []
        self._parts = 0

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_piece,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._text = {}, []
        self._parts += 1  # names may repeat, and each part costs time
        if self._parts > MAX_FIELDS:
            raise invalid(f"the form has more than {MAX_FIELDS} fields")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_piece(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        self._is_file = self._name == "file" and filename is not None
        if self._is_file:
            if self.upload.filename is not None:
                raise invalid("the form has several files; send one", "file")
            self.upload.filename = (filename or b"").decode("utf-8", "replace")[:512] or "upload"

    def _data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._is_file:
            self._hash.update(piece)
            self.upload.size += len(piece)
            self.pending.append(piece)
            self.pending_size += len(piece)
            return
        self._text.append(piece)
        if sum(map(len, self._text)) > MAX_FIELD_BYTES:
            raise invalid(f"the field {self._name[:64]!r} is larger than {MAX_FIELD_BYTES} bytes", self._name)

    def _end(self) -> None:
        if self._is_file:
            return
        text = b"".join(self._text).decode("utf-8", "replace")
        if self._name.endswith("[]"):
            self.upload.lists.setdefault(self._name, []).append(text)
        else:
            self.upload.fields[self._name] = text

    def _finish(self) -> None:
        self.done = True
        self.upload.digest = self._hash.hexdigest()

    def check(self) -> None:
        """Refuse a form that is incomplete or has no file."""
        if not self.done:
            raise invalid("the form ends before its last boundary; send it whole", code="invalid_encoding")
        if self.upload.filename is None:
            raise invalid("file: Field required", "file")


async def read_upload(
    scope: Scope,
    receive: Receive,
    storage: Storage,
    key: str,
    max_bytes: int,
    setting: str = "file_max_bytes",
) -> tuple[Upload, Writer]:
    """Read an upload; its file is written to ``key``, for the caller to commit or abort.

    Args:
        setting: the name of the setting that ``max_bytes`` is.

    Raises:
        ApiError: 400, the body is not such a form; 413, the file is larger than ``max_bytes``. Nothing is left in storage.
        ClientGoneError: the client hung up first. Nothing is left in storage.
        StorageError: storage failed. Nothing is left in storage.
    """
    form = _Form()
    parser = _parser(_boundary(scope, max_bytes, setting), form)
    writer = await storage.writer(key)
    try:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            more = message.get("more_body", False)
            try:
                parser.write(message.get("body", b""))
            except FormParserError as error:
                raise invalid(f"the form cannot be read: {error}", code="invalid_encoding") from None
            if form.upload.size > max_bytes:
                raise too_large(max_bytes, setting)
            if form.pending_size >= BLOCK or not more:
                pieces, form.pending, form.pending_size = form.pending, [], 0
                await writer.write(b"".join(pieces))
        form.check()
    except BaseException:
        await writer.abort()
        raise
    return form.upload, writer


def _parser(boundary: bytes, form: _Form) -> MultipartParser:
    """Make the parser. Raises ApiError: the boundary is too long."""
    try:
        return MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
    except FormParserError as error:
        raise invalid(f"the form cannot be read: {error}", code="invalid_encoding") from None


def _boundary(scope: Scope, max_bytes: int, setting: str) -> bytes:
    """Return the form's boundary. Raises ApiError: the body is no form, or announces too many bytes."""
    kind, options = parse_options_header(header(scope, b"content-type") or b"")
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        fields = "file and purpose" if setting == "file_max_bytes" else "file and model"
        raise invalid(f"the body is not a form; send multipart/form-data with the fields {fields}", "file")
    if announced_bytes(scope) > max_bytes + MAX_FIELDS * MAX_FIELD_BYTES:
        raise too_large(max_bytes, setting)
    return boundary


def too_large(max_bytes: int, setting: str = "file_max_bytes") -> ApiError:
    """Make the 413 for a file."""
    message = f"the file is larger than {max_bytes} bytes (setting {setting}); split it"
    return ApiError(413, message, "file_too_large", param="file", headers={"connection": "close"})

"""A real S3 API server (moto) on loopback, in a thread; with faults on demand."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.support import free_port

BUCKET = "penstock"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


class S3Server:
    """Serves until the block ends. ``fault``: called with (method, path); returns a status to answer with, or None.

    ``delay_s``: how long every answer takes more.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.fault: Callable[[str, str], int | None] | None = None
        self.delay_s = 0.0
        self.refused = 0
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", self.port, self._serve, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3")
        self._environ: dict[str, str | None] = {}

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self.delay_s:
            time.sleep(self.delay_s)
        status = self.fault(environ["REQUEST_METHOD"], environ["PATH_INFO"]) if self.fault else None
        if status is None:
            return self._app(environ, start_response)
        self.refused += 1
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = b"<Error><Code>InternalError</Code><Message>a fault of the test</Message></Error>"
        start_response(
            f"{status} Fault", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        )
        return [body]

    def settings(self, prefix: str) -> dict[str, object]:
        """Return a process's storage settings, for files under ``prefix``."""
        return {
            "files_url": f"s3://{BUCKET}/{prefix}",
            "files_s3_endpoint": self.url,
            "files_s3_region": "us-east-1",
            "files_timeout_s": 3.0,
        }

    def __enter__(self) -> Self:
        self._environ = {name: os.environ.get(name) for name in CREDENTIALS}
        os.environ.update(CREDENTIALS)
        self._thread.start()
        client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()
        for name, value in self._environ.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""A certificate that nobody has signed, made when it is needed and kept nowhere."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from pathlib import Path

from workbench.errors import LLMError

_COMMAND = (
    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
    "-keyout", "key.pem", "-out", "cert.pem",
)  # fmt: skip


def self_signed() -> ssl.SSLContext:
    """The context of a server with a self-signed certificate for 127.0.0.1.

    Raises LLMError serve.openssl where the command `openssl` is missing or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(_COMMAND, cwd=folder, check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            raise LLMError(
                f"a certificate for the fault net-tls could not be made: {error}",
                code="serve.openssl",
                next_step="install the command `openssl`, or use fault='net-tls-plain', which needs none",
            ) from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(folder, "cert.pem"), Path(folder, "key.pem"))
    return context

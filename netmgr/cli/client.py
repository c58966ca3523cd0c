"""The command line's end of the REST API: HTTPS with a client certificate; every failure a sentence.

The manager is reached by address and recognised by the name `netmgr` in its certificate, so it may have any address.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CliError", "Connection"]

_PORT = 7443
_SERVER_NAME = "netmgr"
_TIMEOUT_S = 30.0


class CliError(Exception):
    """What went wrong and what to do; ends the command with exit code 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the manager is and who we are; connects at the first request."""

    manager: str
    identity: str

    def get(self, path: str, **params: Any) -> Any:
        """The answer to GET, parsed. Each of these raises `CliError` when refused."""
        return self._request("GET", path, params=params)

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        return self._request("POST", path, params=params, json=body)

    def post_raw(self, path: str, raw: bytes, **params: Any) -> Any:
        return self._request("POST", path, params=params, content=raw)

    def patch(self, path: str, body: Any, **params: Any) -> Any:
        return self._request("PATCH", path, params=params, json=body)

    def delete(self, path: str, **params: Any) -> None:
        self._request("DELETE", path, params=params)

    def _request(self, method: str, path: str, *, params: dict[str, Any], **content: Any) -> Any:
        import httpx  # 0.1 s that `--help` does not pay

        given = {name: value for name, value in params.items() if value is not None}
        timeout_s = _TIMEOUT_S + float(given.get("timeout_s", 0))
        base_url = f"https://{_with_port(self.manager)}/api/v1/"
        try:
            with httpx.Client(
                base_url=base_url, verify=self._tls(), timeout=httpx.Timeout(timeout_s, connect=5), trust_env=False
            ) as client:
                extensions = {"sni_hostname": _SERVER_NAME}
                answer = client.request(method, path, params=given, extensions=extensions, **content)
        except httpx.TransportError as error:
            raise CliError(self._transport_sentence(error)) from error
        except httpx.InvalidURL:
            raise CliError(f"--manager {self.manager!r} is no address; write HOST:PORT, IPv6 in brackets") from None
        return _result(answer)

    def _tls(self) -> ssl.SSLContext:
        directory = Path(self.identity)
        names = [name for name in ("ca.pem", "cert.pem", "key.pem") if not (directory / name).is_file()]
        if names:
            raise CliError(
                f"identity {directory}: {', '.join(names)} missing or not readable; run as root on the manager's "
                "machine, or name a directory made by `netmgr cert issue` with --identity or NETMGR_IDENTITY"
            )
        try:
            context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
            context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        except OSError as error:  # ssl.SSLError is one
            raise CliError(f"identity {directory}: can't be used: {error}") from None
        return context

    def _transport_sentence(self, error: Exception) -> str:
        found = str(error)
        at = f"the manager at {_with_port(self.manager)}"
        if "CERTIFICATE_VERIFY_FAILED" in found:
            return (
                f"{at} is not the one of identity {self.identity}: its certificate is not from that ca.pem; "
                "check --manager and --identity"
            )
        # TLS 1.3 judges the client's certificate after the client thinks that the handshake is over, and its alert may
        # be overtaken by the end of the connection.
        if "alert" in found.lower() or "disconnected" in found or "reset by peer" in found:
            return (
                f"{at} refused the certificate of identity {self.identity}, or is just stopping: a certificate of "
                "another CA or an expired one is refused; issue a new one with `netmgr cert issue`"
            )
        if "refused" in found.lower():
            return f"no netmgr answers at {_with_port(self.manager)}: is it running? (systemctl status netmgr)"
        return f"{at} can't be reached: {found or type(error).__name__}"


def _result(answer: Any) -> Any:
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        sentence = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        sentence = f"the manager answered {answer.status_code}: {answer.text[:200]}"
    raise CliError(sentence)


def _with_port(address: str) -> str:
    has_port = address.rpartition(":")[2].isdigit() and (address.count(":") == 1 or "]:" in address)
    if has_port:
        return address
    if address.count(":") > 1 and not address.startswith("["):
        address = f"[{address}]"
    return f"{address}:{_PORT}"

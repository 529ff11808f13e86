"""Which API server, and as whom: read from a kubeconfig or a Pod's service account."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from envfarm.core.errors import ClusterError, Reason

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_FRESH_SEC = 30.0
"""How long a token is used before its source is asked again. A kubelet renews the file minutes before it expires."""


@dataclass
class Cluster:
    """An API server and the caller's credentials."""

    server: str
    """``https://host:port``, no path."""
    context: ssl.SSLContext | None
    """None for plain http."""
    read_token: Callable[[], str]
    """The current bearer token; may block (an exec plug-in, a file). Empty where certificates do."""
    namespace: str = "default"
    _token: str = ""
    _asked: float = field(default=float("-inf"))

    async def token(self, *, renew: bool = False) -> str:
        """The bearer token, asked for again when it is older than half a minute, or to ``renew`` it after a refusal."""
        if renew or time.monotonic() - self._asked > _FRESH_SEC:
            self._token = await asyncio.to_thread(self.read_token)
            self._asked = time.monotonic()
        return self._token


def load_cluster(kubeconfig: Path | None = None, context: str | None = None) -> Cluster:
    """From a kubeconfig (``KUBECONFIG`` or ``~/.kube/config`` where none is named); inside a Pod, and with none named,
    from its service account. Raises ``ClusterError`` (no_cluster)."""
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and (_ACCOUNT / "token").exists()
    if kubeconfig is None and context is None and inside and "KUBECONFIG" not in os.environ:
        return _service_account()
    return _from_kubeconfig(kubeconfig, context)


def _service_account() -> Cluster:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    return Cluster(
        server=f"https://{host}:{port}",
        context=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        read_token=lambda: (_ACCOUNT / "token").read_text().strip(),
        namespace=(_ACCOUNT / "namespace").read_text().strip(),
    )


def _from_kubeconfig(path: Path | None, context: str | None) -> Cluster:
    # the package knows every way to authenticate, exec plug-ins among them; importing it takes a second
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException
    from yaml import YAMLError

    made = client.Configuration()
    try:
        config.load_kube_config(str(path) if path else None, context, client_configuration=made)
        _, active = config.list_kube_config_contexts(str(path) if path else None)
    except (ConfigException, OSError, YAMLError) as error:  # the boundary to a user's file
        said = " ".join(str(error).split())
        raise ClusterError(
            f"No cluster can be reached: {said}.".replace("..", "."), reason=Reason.no_cluster, phase="connect",
            remedy="Name a kubeconfig with --kubeconfig or KUBECONFIG.",
        ) from error  # fmt: skip

    def read_token() -> str:
        # it calls an exec plug-in again when what that gave has expired
        found = made.auth_settings().get("BearerToken")
        return (found["value"] or "").removeprefix("Bearer ") if found else ""

    tls: ssl.SSLContext | None = None
    if made.host.startswith("https"):
        tls = ssl.create_default_context(cafile=made.ssl_ca_cert)
        if not made.verify_ssl:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        if made.cert_file:
            tls.load_cert_chain(made.cert_file, made.key_file)
    named = (active or {}).get("context", {}).get("namespace", "default")
    return Cluster(server=made.host.rstrip("/"), context=tls, read_token=read_token, namespace=named)

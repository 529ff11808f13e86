"""What a box of ``Network.registry`` gets of the host's way to package registries: DNS, certificates, client settings.

Values are read from this process's environment and the clients' own files at the moment of use and go nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .command import Bind

_CA_FILE = "/run/envfarm/ca.pem"
_CA_FILE_VARIABLES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
)  # fmt: skip
_PASSED = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY", "UV_INSECURE_HOST",
    "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_CONCURRENT_DOWNLOADS",
    "npm_config_registry", "NPM_CONFIG_REGISTRY", "GOPROXY", "GONOSUMDB", "GONOSUMCHECK", "GOSUMDB", "GOFLAGS",
    "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
)  # fmt: skip
_SYSTEM_CERTS = "/etc/ssl/certs"
_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def registry_access(environ: Mapping[str, str], reachable: Callable[[Path], bool]) -> tuple[list[Bind], dict[str, str]]:
    """Binds and environment variables, by the host's environment ``environ``.

    A client's file that the boxes' user may not read (below a closed home folder, say) is left out, and the next
    candidate taken.
    """
    binds: list[Bind] = []
    env = {name: environ[name] for name in _PASSED if name in environ}
    for name in ("resolv.conf", "hosts"):
        path = Path("/etc") / name
        if path.exists():
            # It may be a link to where a resolver daemon keeps it.
            binds.append(Bind(str(path.resolve()), str(path)))
    if Path(_SYSTEM_CERTS).is_dir():
        binds.append(Bind(_SYSTEM_CERTS, _SYSTEM_CERTS))
    bundle = _ca_bundle(environ, reachable)
    if bundle is not None:
        binds.append(Bind(str(bundle), _CA_FILE))
        env |= dict.fromkeys(_CA_FILE_VARIABLES, _CA_FILE)
    binds += _client_files(environ, reachable)
    return binds, env


def _ca_bundle(environ: Mapping[str, str], reachable: Callable[[Path], bool]) -> Path | None:
    named = (environ.get(variable, "") for variable in _CA_FILE_VARIABLES)
    for candidate in (*filter(None, named), *_SYSTEM_BUNDLES):
        path = Path(candidate).resolve()
        if path.is_file() and reachable(path):
            return path
    return None


def _client_files(environ: Mapping[str, str], reachable: Callable[[Path], bool]) -> list[Bind]:
    config = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = {
        "/etc/pip.conf": (environ.get("PIP_CONFIG_FILE", ""), config / "pip/pip.conf", "/etc/pip.conf"),
        "/etc/uv/uv.toml": (environ.get("UV_CONFIG_FILE", ""), config / "uv/uv.toml", "/etc/uv/uv.toml"),
    }
    binds: list[Bind] = []
    for target, sources in candidates.items():
        found = (Path(source).resolve() for source in sources if source and Path(source).is_file())
        source = next((path for path in found if reachable(path)), None)
        if source is not None:
            binds.append(Bind(str(source), target))
    return binds

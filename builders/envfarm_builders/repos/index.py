"""A Python package index: which one this machine uses, which releases it lists, and their source archives."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from packaging.utils import InvalidSdistFilename, canonicalize_name, parse_sdist_filename
from packaging.version import Version

from envfarm.core.errors import BuilderError, Reason, Tier

MAX_SDIST_BYTES = 96 << 20
"""Larger source archives are not downloaded."""
_MAX_PAGE_BYTES = 64 << 20
_JSON = "application/vnd.pypi.simple.v1+json"
_REMEDY = "Check the network, or name a reachable index in UV_DEFAULT_INDEX."
# pip is asked in a process of its own: it is the one that knows its configuration files and its own default.
_ASK_PIP = (
    "from pip._internal.commands import create_command as c; import json; "
    "o, _ = c('download').parse_args([]); print(json.dumps([o.index_url, o.cert]))"
)


@dataclass(frozen=True)
class Release:
    """One final release and its source archive."""

    version: Version
    uploaded_at: datetime
    filename: str
    url: str
    sha256: str
    """Empty where the index gives no hash."""


class PackageIndex:
    """Reads an index through its JSON interface (PEP 691 and PEP 700). Calls block.

    Raises ``BuilderError``: ``index_unreachable`` (retryable) when it does not answer, ``package_unknown``,
    ``no_sdist``.
    """

    def __init__(self, url: str = "", *, cert: str = "", timeout_sec: float = 30.0, attempts: int = 3) -> None:
        if not url:
            url, cert = configured_index()
        self._url, self._auth = _split_credentials(url.rstrip("/") + "/")
        self._timeout_sec, self._attempts = timeout_sec, attempts
        self._ssl = ssl.create_default_context(cafile=cert or None)

    def releases(self, name: str) -> list[Release]:
        """Final releases with a source archive, newest version first. Yanked ones and pre-releases are left out, and
        a post-release where the release that it repeats is there."""
        project = canonicalize_name(name)
        page_url = urljoin(self._url, project + "/")
        body, final_url = self._get(page_url, _MAX_PAGE_BYTES, missing=_unknown(project))
        try:
            files = json.loads(body)["files"]
            found = [release for file in files if (release := _release(file, project, final_url))]
        except (ValueError, KeyError, TypeError) as error:
            # The boundary: whatever is not the interface's JSON, is one error.
            raise BuilderError(
                "The package index answered without the JSON listing of PEP 691 and upload times of PEP 700.",
                reason=Reason.index_unreachable,
                phase="index",
                tier=Tier.environment,
                remedy="Name an index that has them in UV_DEFAULT_INDEX.",
                detail=str(error),
            ) from error
        found = _final_only(found)
        if not found:
            raise BuilderError(
                f"Package {project} has no final release with a source archive.",
                reason=Reason.no_sdist,
                phase="index",
                remedy="Mine a git clone of it instead.",
            )
        return sorted(found, key=lambda release: release.version, reverse=True)

    def download(self, release: Release) -> bytes:
        """The archive, checked against the index's hash. Raises ``sdist_broken`` where they differ."""
        gone = BuilderError(
            f"The source archive {release.filename} is listed but cannot be downloaded.",
            reason=Reason.no_sdist,
            phase="download",
        )
        data, _ = self._get(release.url, MAX_SDIST_BYTES, missing=gone)
        if release.sha256 and hashlib.sha256(data).hexdigest() != release.sha256:
            raise BuilderError(
                f"The source archive {release.filename} does not have the hash that the index gives for it.",
                reason=Reason.sdist_broken,
                phase="download",
                retryable=True,
            )
        return data

    def _get(self, url: str, limit: int, *, missing: BuilderError) -> tuple[bytes, str]:
        request = urllib.request.Request(url, headers={"Accept": f"{_JSON}, */*;q=0.1", "User-Agent": "envfarm"})
        if self._auth and urlsplit(url).netloc == urlsplit(self._url).netloc:
            request.add_header("Authorization", self._auth)
        failure: BuilderError | None = None
        for attempt in range(self._attempts):
            if failure is not None:
                time.sleep(0.5 * 3 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_sec, context=self._ssl) as answer:
                    data = answer.read(limit + 1)
                    if len(data) > limit:
                        raise BuilderError(
                            f"The package index's answer is larger than {limit:,} bytes.",
                            reason=Reason.sdist_unsafe,
                            phase="download",
                        )
                    return data, answer.url
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in (404, 410):
                    raise missing from error
                if error.code < 500 and error.code not in (408, 429):
                    raise _unreachable(f"it answers {error.code} {error.reason}", retryable=False) from error
                failure = _unreachable(f"it answers {error.code} {error.reason}")
            except (OSError, ValueError) as error:  # retry: refused, reset, timed out, unresolvable, cut short
                failure = _unreachable(str(getattr(error, "reason", error)) or type(error).__name__)
        assert failure is not None
        raise failure


def configured_index(environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The index URL that uv and pip would use here, and a CA bundle or ''.

    From ``UV_DEFAULT_INDEX``, ``UV_INDEX_URL``, else what pip says of its environment, files and default.
    """
    environ = os.environ if environ is None else environ
    cert = environ.get("SSL_CERT_FILE") or environ.get("PIP_CERT") or environ.get("REQUESTS_CA_BUNDLE") or ""
    for key in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if value := environ.get(key, "").strip():
            # uv allows ``name=url``.
            return re.sub(r"^[\w.-]+=(?=https?:)", "", value), cert
    problem = ""
    for prelude in ("", _BUNDLED_PIP):
        done = subprocess.run(
            [sys.executable, "-c", prelude + _ASK_PIP], capture_output=True, text=True, env=dict(environ), timeout=60
        )
        if done.returncode == 0:
            url, pip_cert = json.loads(done.stdout.splitlines()[-1])
            return url, cert or pip_cert or ""
        problem = done.stderr
    raise BuilderError(
        "No package index is configured and pip is not here to ask.",
        reason=Reason.index_unreachable,
        phase="index",
        tier=Tier.environment,
        remedy="Name one in UV_DEFAULT_INDEX.",
        detail=problem,
    )


_BUNDLED_PIP = (
    "import sys, ensurepip, pathlib; "
    "sys.path[:0] = map(str, pathlib.Path(ensurepip.__file__).parent.glob('_bundled/pip-*.whl')); "
)


def _release(file: dict[str, Any], project: str, page_url: str) -> Release | None:
    try:
        name, version = parse_sdist_filename(file["filename"])
    except InvalidSdistFilename:
        return None  # a wheel, an installer, or a name from before there were rules
    if name != project or file.get("yanked") or version.is_prerelease or int(file.get("size") or 0) > MAX_SDIST_BYTES:
        return None
    uploaded = datetime.fromisoformat(file["upload-time"])
    return Release(
        version=version,
        uploaded_at=uploaded.astimezone(UTC).replace(microsecond=0),
        filename=file["filename"],
        url=urljoin(page_url, file["url"]),
        sha256=(file.get("hashes") or {}).get("sha256", ""),
    )


def _final_only(found: list[Release]) -> list[Release]:
    by_version: dict[Version, Release] = {}
    for release in sorted(found, key=lambda release: not release.filename.endswith(".tar.gz")):
        by_version.setdefault(release.version, release)
    return [
        release
        for version, release in by_version.items()
        if not version.is_postrelease or Version(version.base_version) not in by_version
    ]


def _split_credentials(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BuilderError(
            "The configured package index is not an http or https URL.",
            reason=Reason.index_unreachable,
            phase="index",
            tier=Tier.environment,
            remedy="Name one in UV_DEFAULT_INDEX.",
        )
    if not parts.username:
        return url, ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return urlunsplit(bare), "Basic " + base64.b64encode(pair.encode()).decode()


def _unknown(project: str) -> BuilderError:
    return BuilderError(
        f"The package index knows no package '{project}'.",
        reason=Reason.package_unknown,
        phase="index",
        remedy="Check the spelling.",
    )


def _unreachable(why: str, retryable: bool = True) -> BuilderError:
    return BuilderError(
        f"The package index cannot be reached: {why}.",
        reason=Reason.index_unreachable,
        phase="index",
        tier=Tier.environment,
        remedy=_REMEDY,
        retryable=retryable,
    )

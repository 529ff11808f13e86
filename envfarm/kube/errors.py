"""What an API server's refusal means: its status code and text become one typed error."""

from __future__ import annotations

import msgspec

from envfarm.core.errors import ClusterError, Reason, Tier


class Details(msgspec.Struct, frozen=True):
    """Of a ``Status``: what it is about."""

    name: str = ""
    kind: str = ""
    retryAfterSeconds: int = 0


class Status(msgspec.Struct, frozen=True):
    """The body of a refusal."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: Details | None = None


class StatusEvent(msgspec.Struct, frozen=True):
    """The line of a watch that says why it ends."""

    object: Status


_STATUS = msgspec.json.Decoder(Status)
_REASONS = {
    401: (Reason.credentials_refused, "Renew the credentials of the kubeconfig or the service account.", False),
    403: (Reason.forbidden, "Bind a role that allows it to the user or service account named.", False),
    404: (Reason.not_found, "", False),
    409: (Reason.conflict, "", False),
    410: (Reason.expired, "", True),
    422: (Reason.invalid, "The cluster's validation refuses the object.", False),
    429: (Reason.throttled, "The API server asks for patience; the call is tried again by itself.", True),
}


def refusal(code: int, body: bytes, what: str) -> ClusterError:
    """The error for an answer of ``code``; ``what`` is the call, as ``create pods in ns-1``."""
    try:
        status = _STATUS.decode(body)
    except msgspec.DecodeError:  # a proxy's page in place of an answer of the API server
        status = Status(message=body[:200].decode(errors="replace").strip())
    reason, remedy, retryable = _REASONS.get(code, (Reason.cluster_failed, "", code >= 500))
    if code == 403 and "exceeded quota" in status.message:
        reason, remedy = Reason.quota, "Raise the namespace's ResourceQuota, or declare less capacity."
    elif code == 403 and "forbidden: violates" in status.message:
        reason, remedy = Reason.invalid, "The namespace's pod security does not admit the object."
    return ClusterError(
        f"The cluster refused to {what}: {status.message or f'status {code}'}.".replace("..", "."),
        reason=reason, phase=what.split()[0], remedy=remedy, retryable=retryable, tier=Tier.environment, code=code,
        status=status.reason,
    )  # fmt: skip

"""Keys and certificates of a bed: one authority, serving certificates, a key for service accounts, bearer tokens."""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from .net import NODE_IP, SERVICE_IP

_DAYS = datetime.timedelta(days=30)


@dataclass(frozen=True)
class User:
    """Who comes with a bearer token. Client certificates would be checked anew at every request, at a fifth of the
    API server's CPU."""

    name: str
    groups: tuple[str, ...] = ()


USERS = {
    "admin": User("admin", ("system:masters",)),
    "manager": User("system:kube-controller-manager"),
    "scheduler": User("system:kube-scheduler"),
    "proxy": User("system:kube-proxy"),
    "kwok": User("kwok", ("system:masters",)),
    "node": User("system:node:node-0", ("system:nodes",)),
    "nobody": User("nobody"),
}
"""``nobody`` may do nothing until a test allows it something."""


def token(pki: Path, user: str) -> str:
    """Of one of :data:`USERS`."""
    rows = (line.split(",") for line in (pki / "tokens.csv").read_text().splitlines())
    return next(row[0] for row in rows if row[1] == USERS[user].name)


def make_pki(folder: Path) -> None:
    """Everything, in a new folder: ``ca.crt``, ``apiserver.key``, ``tokens.csv``, ..."""
    # a heavy import that only the making of a bed needs
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folder.mkdir(mode=0o700)
    now = datetime.datetime.now(datetime.UTC)

    def save(name: str, key, certificate=None) -> None:  # type: ignore[no-untyped-def]
        form = serialization.PrivateFormat.TraditionalOpenSSL
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (folder / f"{name}.key").write_bytes(pem)
        if certificate is not None:
            (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def subject(name: str, *groups: str) -> x509.Name:
        organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def build(name: x509.Name, issuer: x509.Name, key) -> x509.CertificateBuilder:  # type: ignore[no-untyped-def]
        made = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + _DAYS)

    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = subject("envfarm-testbed")
    ca = build(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    save("ca", ca_key, ca.sign(ca_key, hashes.SHA256()))

    def issue(file: str, name: x509.Name, usage: x509.ObjectIdentifier, hosts: tuple[str, ...] = ()) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        made = build(name, ca_name, key).add_extension(x509.ExtendedKeyUsage([usage]), False)
        if hosts:
            names = [
                x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdecimal() else x509.DNSName(host)
                for host in hosts
            ]
            made = made.add_extension(x509.SubjectAlternativeName(names), False)
        save(file, key, made.sign(ca_key, hashes.SHA256()))

    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    issue("apiserver", subject("kube-apiserver"), server, (*names, NODE_IP, SERVICE_IP, "127.0.0.1"))
    issue("kubelet", subject("system:node:node-0", "system:nodes"), server, ("node-0", NODE_IP))
    issue("kubelet-client", subject("apiserver-kubelet-client", "system:masters"), client)
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    save("sa", accounts)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "sa.pub").write_bytes(accounts.public_key().public_bytes(serialization.Encoding.PEM, form))
    rows = (f'{secrets.token_hex(24)},{user.name},{user.name},"{",".join(user.groups)}"\n' for user in USERS.values())
    (folder / "tokens.csv").write_text("".join(rows))


def kubeconfig(pki: Path, server: str, user: str) -> str:
    """For one of :data:`USERS`; JSON, which is YAML too."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bed", "cluster": {"server": server, "certificate-authority": str(pki / "ca.crt")}}],
            "users": [{"name": user, "user": {"token": token(pki, user)}}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": user}}],
            "current-context": "bed",
        },
        indent=1,
    )

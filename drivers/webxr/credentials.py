"""Certificate and pairing code of the headset page, made once and kept for this user.

Browsers give a page WebXR only over HTTPS. A self-signed certificate costs the operator one
prompt per headset; keeping it keeps it at one. The pairing code is kept too, so that a headset's
bookmark goes on working; deleting the folder makes both anew.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import socket
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from teleop.addresses import own_address
from teleop.errors import DeviceError, MissingExtraError
from teleop.rig_inputs import WebXrServer

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    raise MissingExtraError("cryptography", "webxr", "a headset (WebXR)") from error

_VALID_DAYS = 820
"""Apple's systems accept at most 825 days (support.apple.com/103769)."""
_RENEW_DAYS = 30
_CODE_DIGITS = 6
"""Digits are what a headset's keyboard types best; the server takes one guess a second, so that
trying all takes eleven days."""
_CERTIFICATE, _KEY, _CODE = "certificate.pem", "key.pem", "pairing_code"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the server shows and asks for."""

    certificate: Path
    key: Path
    code: str
    names: frozenset[str]
    """Host names that the certificate is made out to, lower case."""

    def tls(self) -> ssl.SSLContext:
        """For a server.

        Raises:
            DeviceError: certificate and key do not fit or cannot be read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:  # ssl.SSLError is one
            raise DeviceError(
                f"webxr: {self.certificate} and {self.key} cannot be used ({error}); "
                "give a PEM certificate and its own unencrypted key"
            ) from error
        return context


def folder() -> Path:
    """Where they are kept (XDG base directory specification)."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "tandem" / "webxr"


def pairing_code() -> str:
    """The code that was kept; empty when there is none yet."""
    try:
        return code_file().read_text(encoding="ascii").strip()
    except OSError:
        return ""


def code_file() -> Path:
    """Where the operator finds the code."""
    return folder() / _CODE


def page_address(config: WebXrServer) -> str:
    """What to type into the headset's browser; the pairing code is not in it."""
    host = lan() if config.host in ("0.0.0.0", "::") else config.host
    return f"https://{f'[{host}]' if ':' in host else host}:{config.port}/"


def obtain(config: WebXrServer) -> Credentials:
    """Load, or make what is missing.

    Raises:
        DeviceError: files that were asked for are missing or unreadable, or the folder is not
            writable.
    """
    if (config.certificate is None) != (config.key is None):
        raise DeviceError("webxr: certificate and key belong together; give both, or neither")
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (code := pairing_code()):
            _write(code_file(), _new_code().encode("ascii"))
            code = pairing_code()
        if config.certificate is None or config.key is None:
            certificate, key = folder() / _CERTIFICATE, folder() / _KEY
            if not _usable(certificate, key, config.host):
                _make(certificate, key, config.host)
        else:
            certificate, key = config.certificate, config.key
        parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"webxr: no certificate for the headset's page ({error}); "
            f"check certificate and key in the rig file, or {folder()}"
        ) from error
    return Credentials(certificate, key, code, frozenset(_names(parsed)))


def _new_code() -> str:
    return "".join(secrets.choice("0123456789") for _ in range(_CODE_DIGITS))


def _names(certificate: x509.Certificate) -> list[str]:
    borne = _borne(certificate)
    return [] if borne is None else [n.lower() for n in borne.get_values_for_type(x509.DNSName)]


def _addresses(certificate: x509.Certificate) -> list[str]:
    borne = _borne(certificate)
    return [] if borne is None else [str(a) for a in borne.get_values_for_type(x509.IPAddress)]


def _borne(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """The names and addresses it is made out to; None when it bears none."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _usable(certificate: Path, key: Path, host: str) -> bool:
    if not (certificate.exists() and key.exists()):
        return False
    parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    left = parsed.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    known = {*_names(parsed), *_addresses(parsed), "0.0.0.0", "::"}
    return left.days > _RENEW_DAYS and host.lower() in known


def _make(certificate: Path, key: Path, host: str) -> None:
    """A self-signed pair for this machine's names and addresses."""
    private = ec.generate_private_key(ec.SECP256R1())
    machine = socket.gethostname().lower()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Tandem on {machine}"[:64])])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    hosts = dict.fromkeys(["localhost", "127.0.0.1", machine, f"{machine}.local", host, lan()])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(h) for h in hosts]), False)
        # Apple's systems trust an installed certificate only if it is an authority's.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(private, hashes.SHA256())
    )
    _write(
        key,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    _write(certificate, made.public_bytes(serialization.Encoding.PEM))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def lan() -> str:
    """This machine's address towards the network, as far as the routing table tells."""
    try:
        return own_address("192.0.2.1", 9)  # TEST-NET-1 (RFC 5737)
    except OSError:
        return "127.0.0.1"


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, readable by this user only."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with open(descriptor, "wb") as file:
        file.write(data)
    Path(name).replace(path)

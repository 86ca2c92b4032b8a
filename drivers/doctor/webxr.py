"""The doctor's look at the page for headsets: port, certificate, and where it can be reached."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import shutil
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from drivers.doctor.checks import Check, refusal_of, told
from drivers.webxr import credentials as webxr_credentials
from drivers.webxr.hub import WebXrHub
from teleop.clock import Clock
from teleop.errors import MissingExtraError
from teleop.rig import Rig
from teleop.rig_checks import is_loopback
from teleop.rig_inputs import WebXrInput, WebXrServer

try:
    from cryptography import x509
except ImportError as error:
    raise MissingExtraError("cryptography", "webxr", "a headset (WebXR)") from error

ANSWER_S = 5.0
EXPIRES_SOON_DAYS = 30


def page_checks(node: str, rig: Rig, clock: Clock) -> Iterator[Check]:
    """Serve the page for a moment and open it as a headset does, pairing apart."""
    inputs = {name: c for name, c in rig.inputs.items() if isinstance(c, WebXrInput)}
    hub = WebXrHub(inputs, rig.webxr, clock)
    refusal = refusal_of(hub)
    if refusal is not None:
        yield told("fail", node, str(refusal))
        return
    try:
        page = webxr_credentials.page_address(rig.webxr)
        fault, certificate = fetch(page)
        if fault:
            remedy = "check the firewall of this machine, and host and port under webxr"
            yield Check("fail", node, f"{page} does not open from here ({fault})", remedy)
            return
        code = webxr_credentials.code_file()
        yield Check("ok", node, f"the page opens at {page}, its pairing code is in {code}")
        if certificate is not None:
            yield certificate_check(node, rig.webxr, certificate, datetime.now(UTC))
        if rig.backend == "hardware":
            yield reach_check(node, rig.webxr)
    finally:
        hub.close()


def fetch(page: str) -> tuple[str, x509.Certificate | None]:
    """Open a page; returns why it did not open, or a blank, and the certificate it came with."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # looked at, not trusted
    url = urlsplit(page)
    link = http.client.HTTPSConnection(
        url.hostname or "", url.port, timeout=ANSWER_S, context=context
    )
    try:
        with contextlib.closing(link):
            link.request("GET", "/")
            assert isinstance(link.sock, ssl.SSLSocket)
            der = link.sock.getpeercert(binary_form=True)
            status = link.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error), None
    if status != http.HTTPStatus.OK:
        return f"it answered {status}", None
    return "", None if der is None else x509.load_der_x509_certificate(der)


def certificate_check(
    node: str, config: WebXrServer, certificate: x509.Certificate, now: datetime
) -> Check:
    """How long the certificate lasts, and whether it names the host that the headset opens."""
    thing, until = f"{node} certificate", certificate.not_valid_after_utc
    own = "self-signed, a headset asks once" if certificate.issuer == certificate.subject else ""
    seen = ", ".join(filter(None, (f"valid until {until:%Y-%m-%d}", own)))
    remedy = (
        f"delete {webxr_credentials.folder()} to have it made anew"
        if config.certificate is None
        else f"renew {config.certificate}"
    )
    left = until - now
    if left.days < 0:
        return Check("fail", thing, f"expired on {until:%Y-%m-%d}", remedy)
    host = urlsplit(webxr_credentials.page_address(config)).hostname or ""
    if host not in _hosts(certificate):
        return Check("warn", thing, f"{seen}, but not made out to {host}", remedy)
    if left.days < EXPIRES_SOON_DAYS:
        return Check("warn", thing, seen, remedy)
    return Check("ok", thing, seen)


def reach_check(node: str, config: WebXrServer) -> Check:
    """Whether a headset can get to the page at all."""
    thing, port = f"{node} reach", config.port
    if not is_loopback(config.host):
        where = webxr_credentials.page_address(config)
        return Check("ok", thing, f"any headset in this network may open {where}, by its code")
    remedy = f"run: adb reverse tcp:{port} tcp:{port}, with the headset at a USB cable"
    if shutil.which("adb") is None:
        remedy = (
            f"set host under webxr to {webxr_credentials.lan()}, or install adb for a USB cable"
        )
    return Check("warn", thing, "the page is on loopback: no headset reaches it by network", remedy)


def _hosts(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = names.get_values_for_type(x509.IPAddress)
    hosts = {
        str(a) for a in addresses if isinstance(a, ipaddress.IPv4Address | ipaddress.IPv6Address)
    }
    return hosts | {name.lower() for name in names.get_values_for_type(x509.DNSName)}

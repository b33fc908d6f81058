"""Certificates as the mesh's authority issues them: an identity is a URI in a certificate that one authority signed."""

from __future__ import annotations

import datetime
import ssl
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """An authority of a test's own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "cluster.local")])
        certificate = self._certificate(self._name, self._key)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self.pem = pem(certificate.add_extension(constraints, critical=True).sign(self._key, hashes.SHA256()))

    def identity(self, namespace: str, account: str) -> tuple[str, str]:
        """Return certificate and key of a service account."""
        return self._issue(x509.UniformResourceIdentifier(f"spiffe://cluster.local/ns/{namespace}/sa/{account}"))

    def context(self, namespace: str, account: str) -> ssl.SSLContext:
        """Return what a client of the mesh needs that is this service account."""
        context = ssl.create_default_context(cadata=self.pem)
        context.check_hostname = False  # an identity is no host
        context.set_alpn_protocols(["istio-http/1.1", "istio", "http/1.1"])
        with tempfile.NamedTemporaryFile("w") as file:  # the module reads it from files only
            file.write("".join(self.identity(namespace, account)))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def host(self, name: str) -> tuple[str, str]:
        """Return certificate and key of a host."""
        return self._issue(x509.DNSName(name))

    def _issue(self, subject: x509.GeneralName) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([subject])
        certificate = self._certificate(x509.Name([]), key).add_extension(names, critical=True)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem(certificate.sign(self._key, hashes.SHA256())), private.decode()

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
        return x509.CertificateBuilder(
            self._name, subject, key.public_key(), x509.random_serial_number(), now - hour, now + hour
        )


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()

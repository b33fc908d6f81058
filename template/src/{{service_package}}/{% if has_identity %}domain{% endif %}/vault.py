"""Secrets: made, compared, and sealed for the database."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def new_secret() -> str:
    """Return 256 random bits as text for a URL."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """Return what is kept of a secret that was made by `new_secret`: it is too random to be guessed from its hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(secret: str, kept: str | None) -> bool:
    """Return whether the secret is the one that `digest` was kept of, in a time that tells nothing."""
    return hmac.compare_digest(digest(secret), kept or "")


class Vault:
    """Seals what must be read again, such as private keys.

    Args:
        secrets: the first one seals; all of them open, so that a secret can be replaced.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(_key(secret)) for secret in secrets])

    def seal(self, plain: bytes) -> bytes:
        """Return it encrypted."""
        return self._fernet.encrypt(plain)

    def open(self, sealed: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            cryptography.fernet.InvalidToken: where it was sealed with another secret.
        """
        return self._fernet.decrypt(sealed)


def _key(secret: str) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"vault").derive(secret.encode())
    return base64.urlsafe_b64encode(derived)

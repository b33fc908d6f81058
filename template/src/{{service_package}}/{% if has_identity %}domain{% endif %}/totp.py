"""The second factor: one-time codes by time (RFC 6238), and recovery codes for a lost telephone."""

import base64
import secrets
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor import InvalidToken
from cryptography.hazmat.primitives.twofactor.totp import TOTP

STEP = 30
WINDOW = 1
"""Steps before and after the present one whose codes are taken, for clocks that differ."""
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
RECOVERY_CODES = 10


def new_seed() -> bytes:
    """Return 160 random bits, as RFC 4226 recommends."""
    return secrets.token_bytes(20)


def base32(seed: bytes) -> str:
    """Return the seed as people type it into an authenticator app."""
    return base64.b32encode(seed).decode()


def uri(seed: bytes, *, account: str, issuer: str) -> str:
    """Return the address that authenticator apps read from a QR code."""
    return _totp(seed).get_provisioning_uri(account, issuer)


def step_of(code: str, seed: bytes, now: datetime, *, after: int) -> int | None:
    """Return the step of time whose code this is, or None.

    Args:
        code: what the user has typed.
        seed: the shared secret.
        now: the time.
        after: the last step whose code was used; neither it nor an earlier one is taken.
    """
    present = int(now.timestamp()) // STEP
    for step in range(present - WINDOW, present + WINDOW + 1):
        if step > after and _is_code(code, seed, step):
            return step
    return None


def _is_code(code: str, seed: bytes, step: int) -> bool:
    try:
        _totp(seed).verify(code.strip().encode(), step * STEP)
    except InvalidToken:
        return False
    return True


def _totp(seed: bytes) -> TOTP:
    # SHA-1 is what authenticator apps know, and as an HMAC it is not broken.
    return TOTP(seed, 6, SHA1(), STEP)  # noqa: S303


def new_recovery_codes() -> list[str]:
    """Return codes of 79 random bits each, in groups that can be typed."""
    return [
        "-".join("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(4)) for _ in range(RECOVERY_CODES)
    ]


def normalised(code: str) -> str:
    """Return a recovery code as it was made, however it was typed."""
    letters = "".join(letter for letter in code.lower() if letter in ALPHABET)
    return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))

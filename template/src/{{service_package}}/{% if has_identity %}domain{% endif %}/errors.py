"""What can go wrong: errors of the API, and errors of the OAuth protocol with the names that its RFCs give them."""

from marty_lib import Conflict, InvalidInput, NotFound, RateLimited, Unauthenticated


class OAuthError(Exception):
    """A refusal for a client (RFC 6749, section 5.2).

    Args:
        error: its name in the RFCs.
        description: one sentence for the client's developer.
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


class BadRequest(Exception):
    """An authorization request whose client or redirect URI is wrong: shown to the user, never sent on."""


class NoSuchUser(NotFound):
    """There is no user of that id."""

    code = "user-not-found"


class NoSuchClient(NotFound):
    """There is no client of that id."""

    code = "client-not-found"


class NoSuchSession(NotFound):
    """There is no session of that id."""

    code = "session-not-found"


class EmailTaken(Conflict):
    """Another user has that address."""

    code = "email-taken"


class NoSuchRole(InvalidInput):
    """A role is named that nobody has defined."""

    code = "no-such-role"


class WeakPassword(InvalidInput):
    """The password is too easy to find."""

    code = "weak-password"


class WrongCredentials(Unauthenticated):
    """The address, the password or the code is wrong; which one is not told."""

    code = "wrong-credentials"


class WrongCode(InvalidInput):
    """The one-time code is wrong, or was used before."""

    code = "wrong-code"


class SecondFactorExists(Conflict):
    """There is a second factor already."""

    code = "second-factor-exists"


class LockedOut(RateLimited):
    """Too many attempts have failed."""

    code = "locked-out"

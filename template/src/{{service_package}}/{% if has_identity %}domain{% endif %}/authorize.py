"""The authorization request: what a client asks a user for (OAuth 2.1, section 4.1; RFC 9207)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from . import pkce
from .errors import BadRequest, OAuthError
from .models import IDENTITY_SCOPES, Client, Session, User

PROMPTS = frozenset({"none", "login", "consent", "select_account"})
LONGEST = 1024


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that is right as far as it can be without knowing the user."""

    client: Client
    redirect_uri: str
    challenge: str
    scopes: frozenset[str]
    state: str = ""
    nonce: str = ""
    prompts: frozenset[str] = frozenset()
    max_age: int | None = None
    query: str = ""
    """The request as it came, for the way back after a login."""

    def needs_login(self, session: Session | None, now: datetime) -> bool:
        """Return whether the user has to prove again who they are."""
        if session is None or "login" in self.prompts:
            return True
        return self.max_age is not None and now - session.created_at > timedelta(seconds=self.max_age)

    def after_login(self) -> str:
        """Return the query that goes on after the login: it does not ask for another one."""
        left = " ".join(sorted(self.prompts - {"login", "select_account"}))
        pairs = [(name, left if name == "prompt" else value) for name, value in parse_qsl(self.query)]
        return urlencode([(name, value) for name, value in pairs if (name, value) != ("prompt", "")])

    def granted(self, user: User) -> frozenset[str]:
        """Return the scopes that this user can give this client."""
        return self.scopes & (IDENTITY_SCOPES | user.permissions)

    def needs_consent(self, scopes: frozenset[str], agreed: frozenset[str]) -> bool:
        """Return whether the user has to be asked."""
        if "consent" in self.prompts:
            return True
        return not self.client.trusted and not scopes <= agreed

    def answer(self, issuer: str, **parameters: str) -> str:
        """Return the address that takes the answer to the client."""
        return redirect(self.redirect_uri, issuer, self.state, **parameters)


def redirect(uri: str, issuer: str, state: str, **parameters: str) -> str:
    """Return a redirect URI with the answer's parameters; its own query stays."""
    parts = urlsplit(uri)
    answer = urlencode({**parameters, **({"state": state} if state else {}), "iss": issuer})
    return urlunsplit(parts._replace(query=f"{parts.query}&{answer}" if parts.query else answer))


def client_id_of(parameters: Mapping[str, str]) -> str:
    """Return the client that a request names.

    Raises:
        BadRequest: where it names none.
    """
    client_id = parameters.get("client_id", "")
    if not client_id:
        raise BadRequest("The request names no client.")
    return client_id


def redirect_uri_of(parameters: Mapping[str, str], client: Client | None) -> str:
    """Return where the answer goes: exactly one of the URIs that the client has registered.

    Raises:
        BadRequest: where it does not; nothing may then be sent there.
    """
    if client is None:
        raise BadRequest("The client is unknown.")
    uri = parameters.get("redirect_uri", "")
    if uri not in client.redirect_uris:
        raise BadRequest("The redirect URI is not one that the client has registered.")
    return uri


def parse(parameters: Mapping[str, str], client: Client, redirect_uri: str, query: str) -> AuthorizationRequest:
    """Return the request.

    Raises:
        OAuthError: where something of it is wrong.
    """
    for name in ("request", "request_uri", "registration"):
        if name in parameters:
            raise OAuthError(f"{name}_not_supported", f"The parameter {name} is not supported.")
    if "authorization_code" not in client.grants:
        raise OAuthError("unauthorized_client", "The client may not use this grant.")
    if parameters.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "Only the response type code is supported.")
    if parameters.get("response_mode", "query") != "query":
        raise OAuthError("invalid_request", "Only the response mode query is supported.")
    return AuthorizationRequest(
        client=client,
        redirect_uri=redirect_uri,
        challenge=_challenge(parameters),
        scopes=scopes_of(parameters.get("scope", ""), client),
        state=_short(parameters, "state"),
        nonce=_short(parameters, "nonce"),
        prompts=_prompts(parameters.get("prompt", "")),
        max_age=_max_age(parameters.get("max_age")),
        query=query,
    )


def scopes_of(text: str, client: Client) -> frozenset[str]:
    """Return the scopes that a client asks for; none is all that it may have.

    Raises:
        OAuthError: where it may not have one of them.
    """
    scopes = frozenset(text.split())
    if scopes - client.scopes:
        raise OAuthError("invalid_scope", "The client may not ask for one of these scopes.")
    return scopes or client.scopes


def _challenge(parameters: Mapping[str, str]) -> str:
    # Without a method the RFC means `plain`, which protects nobody.
    if parameters.get("code_challenge_method") != pkce.METHOD:
        raise OAuthError("invalid_request", "A code challenge is needed, and its method must be S256.")
    challenge = parameters.get("code_challenge", "")
    if not pkce.is_challenge(challenge):
        raise OAuthError("invalid_request", "The code challenge must be 43 characters of base64url.")
    return challenge


def _short(parameters: Mapping[str, str], name: str) -> str:
    value = parameters.get(name, "")
    if len(value) > LONGEST:
        raise OAuthError("invalid_request", f"The parameter {name} may have {LONGEST} characters at most.")
    return value


def _prompts(text: str) -> frozenset[str]:
    prompts = frozenset(text.split())
    if prompts - PROMPTS or ("none" in prompts and len(prompts) > 1):
        raise OAuthError("invalid_request", "The prompt is wrong.")
    return prompts


def _max_age(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise OAuthError("invalid_request", "max_age must be a number of seconds.")
    return int(text)

"""The token endpoint's work: codes and refresh tokens become tokens, once each (OAuth 2.1, section 4)."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from . import pkce
from .authorize import AuthorizationRequest, scopes_of
from .errors import OAuthError
from .journal import Journal
from .models import IDENTITY_SCOPES, Client, Code, Grant, Session, User
from .stores import Grants, ShortLived, Transaction, Users
from .tokens import Tokens
from .vault import digest, new_secret

Answer = dict[str, object]


class GrantService:
    """Gives tokens to clients.

    Args:
        grants: what users have allowed.
        users: who they are.
        short_lived: authorization codes.
        tokens: signs.
        journal: of what happened.
        transaction: opens a unit of work.
        code_lifetime: seconds of an authorization code.
        refresh_lifetime: for which a grant can be refreshed.
        now: the time, in UTC.
    """

    def __init__(
        self,
        grants: Grants,
        users: Users,
        short_lived: ShortLived,
        tokens: Tokens,
        journal: Journal,
        transaction: Transaction,
        *,
        code_lifetime: int,
        refresh_lifetime: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._grants = grants
        self._users = users
        self._short_lived = short_lived
        self._tokens = tokens
        self._journal = journal
        self._transaction = transaction
        self._code_lifetime = code_lifetime
        self._refresh_lifetime = refresh_lifetime
        self._now = now

    async def agreed(self, user: User, client: Client) -> frozenset[str]:
        """Return the scopes that the user has agreed to before."""
        async with self._transaction():
            return await self._grants.consent(user.id, client.id)

    async def agree(self, user: User, client: Client, scopes: frozenset[str]) -> None:
        """Keep that the user agrees."""
        async with self._transaction():
            agreed = await self._grants.consent(user.id, client.id)
            await self._grants.put_consent(user.id, client.id, agreed | scopes)
            await self._journal.note(
                "consent.given", subject=user.id, client_id=client.id, scopes=" ".join(sorted(scopes))
            )

    async def code(self, request: AuthorizationRequest, user: User, session: Session) -> str:
        """Return an authorization code."""
        code = Code(
            client_id=request.client.id,
            redirect_uri=request.redirect_uri,
            challenge=request.challenge,
            scopes=request.granted(user),
            nonce=request.nonce,
            user_id=user.id,
            session_id=session.id,
            auth_time=session.created_at,
            methods=session.methods,
            grant_id=uuid4(),
        )
        secret = new_secret()
        await self._short_lived.put_code(digest(secret), code, self._code_lifetime)
        return secret

    async def exchange(self, parameters: Mapping[str, str], client: Client) -> Answer:
        """Return the answer to a token request.

        Raises:
            OAuthError: where the client does not get what it asks for.
        """
        kinds = {
            "authorization_code": self._by_code,
            "refresh_token": self._by_refresh_token,
            "client_credentials": self._by_itself,
        }
        kind = parameters.get("grant_type", "")
        if kind not in kinds:
            raise OAuthError("unsupported_grant_type", f"Use one of {', '.join(sorted(kinds))}.")
        if kind not in client.grants:
            raise OAuthError("unauthorized_client", "The client may not use this grant.")
        return await kinds[kind](parameters, client)

    async def _by_itself(self, parameters: Mapping[str, str], client: Client) -> Answer:
        if client.secret_digest is None:
            raise OAuthError("unauthorized_client", "A public client cannot act for itself.")
        scopes = scopes_of(parameters.get("scope", ""), client) - IDENTITY_SCOPES
        await self._journal.alone("token.client", subject=client.id, client_id=client.id)
        return self._answer(await self._tokens.for_client(client, scopes), scopes)

    async def _by_code(self, parameters: Mapping[str, str], client: Client) -> Answer:
        secret = digest(parameters.get("code", ""))
        code, uses = await self._short_lived.take_code(secret)
        if code is None:
            raise OAuthError("invalid_grant", "The code is unknown or too old.")
        if uses > 1:
            await self._revoke(code.grant_id, "code.replayed", code.user_id, code.client_id)
            raise OAuthError("invalid_grant", "The code was used before.")
        if code.client_id != client.id or code.redirect_uri != parameters.get("redirect_uri"):
            raise OAuthError("invalid_grant", "The code was made for another client or redirect URI.")
        if not pkce.proves(parameters.get("code_verifier", ""), code.challenge):
            raise OAuthError("invalid_grant", "The code verifier is wrong.")
        answer = await self._from_code(code, client)
        # None is where Redis has forgotten the first use, as a replica or an old copy may have; more uses than one,
        # where somebody came with the same code while the grant was not there yet to be revoked.
        if answer is None or await self._short_lived.uses(secret) > 1:
            await self._revoke(code.grant_id, "code.replayed", code.user_id, code.client_id)
            raise OAuthError("invalid_grant", "The code was used before.")
        return answer

    async def _from_code(self, code: Code, client: Client) -> Answer | None:
        grant = Grant(
            code.grant_id,
            client.id,
            code.user_id,
            code.session_id,
            code.scopes,
            code.auth_time,
            self._now() + self._refresh_lifetime,
        )
        async with self._transaction():
            user = await self._users.get(code.user_id)
            if user is None or user.disabled:
                raise OAuthError("invalid_grant", "The user may not log in any more.")
            if not await self._grants.add(grant):
                return None
            answer = await self._for_user(user, client, grant, grant.scopes)
            await self._journal.note("token.code", subject=user.id, client_id=client.id)
        if "openid" in grant.scopes:
            answer["id_token"] = await self._tokens.id_token(user, code)
        return answer

    async def _by_refresh_token(self, parameters: Mapping[str, str], client: Client) -> Answer:
        secret = digest(parameters.get("refresh_token", ""))
        async with self._transaction():
            grant = await self._grants.by_token(secret)
            if grant is None or grant.client_id != client.id or grant.revoked or grant.expires_at <= self._now():
                raise OAuthError("invalid_grant", "The refresh token is unknown, revoked or too old.")
            asked = frozenset(parameters.get("scope", "").split())
            if asked - grant.scopes:
                raise OAuthError("invalid_scope", "The user has not allowed one of these scopes.")
            answer = await self._refreshed(secret, client, grant, asked or grant.scopes)
        # Only now, so that the revocation is committed.
        if answer is None:
            raise OAuthError("invalid_grant", "The refresh token was used before: log in again.")
        return answer

    async def _refreshed(self, secret: str, client: Client, grant: Grant, scopes: frozenset[str]) -> Answer | None:
        user = await self._users.get(grant.user_id)
        if user is None or user.disabled or not await self._grants.use_token(secret):
            # Two hold the same token, and one of them has stolen it: nobody knows which.
            await self._grants.revoke(grant.id)
            await self._journal.note("token.reused", subject=grant.user_id, client_id=client.id)
            return None
        await self._journal.note("token.refreshed", subject=user.id, client_id=client.id)
        return await self._for_user(user, client, grant, scopes & (IDENTITY_SCOPES | user.permissions))

    async def _for_user(self, user: User, client: Client, grant: Grant, scopes: frozenset[str]) -> Answer:
        answer = self._answer(await self._tokens.for_user(user, client, grant, scopes), scopes)
        if "refresh_token" in client.grants:
            secret = new_secret()
            await self._grants.add_token(digest(secret), grant.id)
            answer["refresh_token"] = secret
        return answer

    def _answer(self, token: str, scopes: frozenset[str]) -> Answer:
        return {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self._tokens.lifetime,
            "scope": " ".join(sorted(scopes)),
        }

    async def _revoke(self, grant_id: UUID, event: str, user_id: UUID, client_id: str) -> None:
        async with self._transaction():
            await self._grants.revoke(grant_id)
            await self._journal.note(event, subject=user_id, client_id=client_id)

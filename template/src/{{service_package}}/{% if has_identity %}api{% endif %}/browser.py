"""What a user's browser meets: the authorization endpoint, the login, the consent, the logout."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from ..domain.authorize import AuthorizationRequest, client_id_of, parse, redirect, redirect_uri_of
from ..domain.clients import ClientService
from ..domain.errors import BadRequest, LockedOut, OAuthError, WrongCredentials
from ..domain.grants import GrantService
from ..domain.logins import LoginService, Origin
from ..domain.models import Session, User
from .callers import address_of
from .forms import form_of, unique
from .pages import page

MEANINGS = {
    "openid": "know that it is you",
    "profile": "see your name and roles",
    "email": "see your e-mail address",
    "offline_access": "act for you while you are away",
    "account": "change your account: password, second factor, sessions",
}


class Wrong(Exception):
    """An authorization request that is refused on the way back to its client.

    Args:
        address: the way back.
    """

    def __init__(self, address: str) -> None:
        super().__init__("the authorization request is wrong")
        self.address = address


class Browser:
    """The pages' work.

    Args:
        issuer: this service's public address.
        clients: who may ask.
        grants: gives codes.
        logins: lets users in.
        proxies: how many of our own stand in front.
    """

    def __init__(
        self, issuer: str, clients: ClientService, grants: GrantService, logins: LoginService, *, proxies: int
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._grants = grants
        self._logins = logins
        self._proxies = proxies
        # Browsers take a cookie with this prefix only from this host itself, over TLS.
        self._secure = issuer.startswith("https://")
        prefix = "__Host-" if self._secure else ""
        self._session_cookie, self._csrf_cookie = f"{prefix}session", f"{prefix}csrf"

    async def authorize(self, request: Request, query: str) -> Response:
        """Answer an authorization request: with a page, or by going back to the client."""
        asked = await self._parsed(query)
        found = await self._current(request)
        if found is None or asked.needs_login(found[0], datetime.now(UTC)):
            if "none" in asked.prompts:
                return self._back(asked, error="login_required")
            return self._login_page(request, asked)
        session, user = found
        scopes = asked.granted(user)
        if not scopes:
            return self._back(asked, error="invalid_scope")
        if asked.needs_consent(scopes, await self._grants.agreed(user, asked.client)):
            if "none" in asked.prompts:
                return self._back(asked, error="consent_required")
            return self._consent_page(request, asked, user, scopes)
        return self._back(asked, code=await self._grants.code(asked, user, session))

    async def login(self, request: Request) -> Response:
        """Take address and password."""
        form = await self._form(request)
        asked = await self._parsed(form.get("query", ""))
        email, origin = form.get("email", ""), self._origin(request)
        try:
            user = await self._logins.with_password(email, form.get("password", ""), origin)
        except (WrongCredentials, LockedOut) as error:
            return self._login_page(request, asked, problem=error, email=email)
        if user.has_second_factor:
            return self._code_page(request, asked, await self._logins.suspend(user))
        return await self._logged_in(request, asked, user, ("pwd",))

    async def login_code(self, request: Request) -> Response:
        """Take the second factor."""
        form = await self._form(request)
        asked = await self._parsed(form.get("query", ""))
        pending = form.get("pending", "")
        try:
            user = await self._logins.with_code(pending, form.get("code", ""), self._origin(request))
        except (WrongCredentials, LockedOut) as error:
            return self._code_page(request, asked, pending, problem=error)
        return await self._logged_in(request, asked, user, ("pwd", "otp", "mfa"))

    async def consent(self, request: Request) -> Response:
        """Take the decision."""
        form = await self._form(request)
        asked = await self._parsed(form.get("query", ""))
        found = await self._current(request)
        if found is None:
            return self._login_page(request, asked)
        session, user = found
        if form.get("decision") != "allow":
            return self._back(asked, error="access_denied")
        await self._grants.agree(user, asked.client, asked.granted(user))
        return self._back(asked, code=await self._grants.code(asked, user, session))

    async def logout(self, request: Request) -> Response:
        """End the session."""
        await self._form(request)
        await self._end(request)
        response = page("message", title="Logged out", text="You are logged out.")
        response.delete_cookie(self._session_cookie, path="/", secure=self._secure, httponly=True, samesite="lax")
        return response

    async def logout_page(self, request: Request) -> Response:
        """Ask whether to end the session, so that no other site can."""
        csrf = self._csrf(request)
        return self._with_csrf(page("logout", csrf=csrf), csrf)

    async def _parsed(self, query: str) -> AuthorizationRequest:
        """Return the authorization request.

        Raises:
            BadRequest: where nothing may be sent to the client.
            Wrong: where it goes back to the client.
        """
        try:
            parameters = unique(query)
        except OAuthError as error:
            raise BadRequest(error.description) from error
        client = await self._clients.find(client_id_of(parameters))
        uri = redirect_uri_of(parameters, client)
        assert client is not None
        try:
            return parse(parameters, client, uri, query)
        except OAuthError as error:
            told = {"error": error.error, "error_description": error.description}
            raise Wrong(redirect(uri, self._issuer, parameters.get("state", "")[:1024], **told)) from error

    async def _form(self, request: Request) -> Mapping[str, str]:
        """Return the form that one of our own pages has sent.

        Raises:
            BadRequest: where it comes from elsewhere.
        """
        try:
            form = await form_of(request)
        except OAuthError as error:
            raise BadRequest(error.description) from error
        kept = request.cookies.get(self._csrf_cookie, "")
        own = request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        if not own or not kept or not secrets.compare_digest(kept.encode(), form.get("csrf", "").encode()):
            raise BadRequest("The page is too old, or your browser keeps no cookies: go back and begin again.")
        return form

    async def _current(self, request: Request) -> tuple[Session, User] | None:
        secret = request.cookies.get(self._session_cookie)
        return await self._logins.current(secret) if secret else None

    async def _logged_in(
        self, request: Request, asked: AuthorizationRequest, user: User, methods: tuple[str, ...]
    ) -> Response:
        await self._end(request)
        session, secret = await self._logins.begin(user, methods, self._origin(request))
        response = RedirectResponse(f"/authorize?{asked.after_login()}", 303)
        seconds = int((session.expires_at - session.created_at).total_seconds())
        response.set_cookie(
            self._session_cookie, secret, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax"
        )
        return response

    async def _end(self, request: Request) -> None:
        found = await self._current(request)
        if found is not None:
            await self._logins.end([found[0].id], because="logged out")

    def _origin(self, request: Request) -> Origin:
        return Origin(address_of(request, self._proxies), request.headers.get("user-agent", ""))

    def _back(self, asked: AuthorizationRequest, **parameters: str) -> Response:
        return RedirectResponse(asked.answer(self._issuer, **parameters), 303, {"cache-control": "no-store"})

    def _login_page(
        self,
        request: Request,
        asked: AuthorizationRequest,
        *,
        problem: WrongCredentials | LockedOut | None = None,
        email: str = "",
    ) -> Response:
        return self._page(request, "login", asked, problem=problem, email=email)

    def _code_page(
        self,
        request: Request,
        asked: AuthorizationRequest,
        pending: str,
        *,
        problem: WrongCredentials | LockedOut | None = None,
    ) -> Response:
        return self._page(request, "code", asked, problem=problem, pending=pending)

    def _consent_page(
        self, request: Request, asked: AuthorizationRequest, user: User, scopes: frozenset[str]
    ) -> Response:
        meanings = [MEANINGS.get(scope, f"use your permission {scope}") for scope in sorted(scopes)]
        return self._page(request, "consent", asked, user=user, meanings=meanings)

    def _page(
        self,
        request: Request,
        name: str,
        asked: AuthorizationRequest,
        *,
        problem: WrongCredentials | LockedOut | None = None,
        **shown: object,
    ) -> Response:
        csrf = self._csrf(request)
        response = page(
            name,
            status=200 if problem is None else 429 if isinstance(problem, LockedOut) else 400,
            redirect_uri=asked.redirect_uri,
            csrf=csrf,
            query=asked.query,
            client=asked.client,
            problem=problem.detail if problem else "",
            **shown,
        )
        if problem:
            response.headers.update(problem.headers)
        return self._with_csrf(response, csrf)

    def _csrf(self, request: Request) -> str:
        return request.cookies.get(self._csrf_cookie) or secrets.token_urlsafe(32)

    def _with_csrf(self, response: HTMLResponse, csrf: str) -> Response:
        response.set_cookie(self._csrf_cookie, csrf, path="/", secure=self._secure, httponly=True, samesite="lax")
        return response


def browser_errors(api: FastAPI) -> None:
    """Have errors shown to the user, or taken back to the client."""

    @api.exception_handler(BadRequest)
    async def show(request: Request, error: BadRequest) -> Response:
        return page("message", status=400, title="This cannot be done", text=str(error))

    @api.exception_handler(Wrong)
    async def back(request: Request, error: Wrong) -> Response:
        return RedirectResponse(error.address, 303, {"cache-control": "no-store"})


def browser_routes(browser: Browser) -> APIRouter:
    """Return the pages' routes."""
    router = APIRouter(include_in_schema=False)

    @router.get("/authorize")
    async def authorize(request: Request) -> Response:
        return await browser.authorize(request, request.url.query)

    @router.post("/authorize")
    async def authorize_by_form(request: Request) -> Response:
        try:
            return RedirectResponse(f"/authorize?{urlencode(dict(await form_of(request)))}", 303)
        except OAuthError as error:
            raise BadRequest(error.description) from error

    router.post("/login")(browser.login)
    router.post("/login/code")(browser.login_code)
    router.post("/consent")(browser.consent)
    router.get("/logout")(browser.logout_page)
    router.post("/logout")(browser.logout)
    return router

"""The rendered auth service, and those who use it: clients that nobody here wrote, and a service that trusts it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.starlette_client import OAuth
from marty_lib.testing import free_ports, status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.conftest import Render, make
from tests.servers.requirement import missing

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("auth")]

EMAIL, PASSWORD = "ada@example.com", "correct horse battery staple"
BOOTSTRAP = ("bootstrap", "bootstrap-for-development")
CALLBACK = "http://127.0.0.1:49999/callback"
CHEAP = {"PASSWORD_TIME_COST": "1", "PASSWORD_MEMORY": "8", "PASSWORD_LANES": "1"}
HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')

# A rendered service, and in it what its owner adds.
GUARDED = """
from typing import Annotated

from fastapi import APIRouter, Depends
from marty_lib import AuthSettings, Bearer, Principal, Verifier, main, require
from shop_service.app import create_app as rendered
from shop_service.config import Settings as Rendered


class Settings(Rendered):
    auth: AuthSettings = AuthSettings()


def create_app(settings):
    app = rendered(settings)
    verifier = app.add(Verifier(settings.auth))
    api = next(part for part in app.components if part.name == "http").application
    routes = APIRouter(dependencies=[Depends(Bearer(verifier.authenticate))])

    @routes.post("/guarded")
    async def guarded(caller: Annotated[Principal, Depends(require("orders:write"))]):
        return caller.client_id

    api.include_router(routes)
    return app


main(Settings, create_app)
"""


class Running:
    """A rendered service as a process on free ports."""

    def __init__(self, service: Path, log: Path, *command: str, **variables: str) -> None:
        http, ops = free_ports(2)
        self.url, self.ops, self.log = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{ops}", log
        ports = {"HTTP_PORT": str(http), "OPS_PORT": str(ops), "OAUTH_ISSUER": self.url}
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [str(service / ".venv/bin/python"), *command], env=ports | variables, stdout=stream, stderr=stream
            )

    def wait_ready(self) -> Running:
        """Return once readiness says so."""
        ends = time.monotonic() + 60
        while status(f"{self.ops}/health/ready") != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """End the process, however it is."""
        self.process.kill()
        self.process.wait()


class Auth:
    """The auth service, its administrator, and a user at a browser."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.url = running.url
        self.http = httpx2.Client(base_url=self.url, trust_env=False, timeout=30)
        self.admin = {"authorization": f"Bearer {self.client_token(BOOTSTRAP)}"}

    def client_token(self, credentials: tuple[str, str]) -> str:
        """Return a token by which a client acts for itself."""
        answer = self.http.post("/token", data={"grant_type": "client_credentials"}, auth=credentials)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Do something as the administrator."""
        answer = self.http.request(method, path, json=body, headers=self.admin)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def robot(self, *scopes: str, audience: str = "orders") -> tuple[str, str]:
        """Return the credentials of a new client that acts for itself."""
        wanted = {"grants": ["client_credentials"], "scopes": scopes, "audiences": [audience]}
        made = self.ask("POST", "/v1/clients", name="Robot", **wanted)
        return made["id"], made["secret"]

    def browse(self, address: str) -> str:
        """Log in where an authorization request leads, allow it, and return the address that it comes back to."""
        with httpx2.Client(base_url=self.url, trust_env=False, timeout=30) as browser:
            answer = browser.get(address)
            answer = submit(browser, answer, "/login", email=EMAIL, password=PASSWORD)
            answer = browser.get(answer.headers["location"])
            answer = submit(browser, answer, "/consent", decision="allow")
            return str(answer.headers["location"])


def submit(browser: httpx2.Client, page: httpx2.Response, path: str, **fields: str) -> httpx2.Response:
    """Fill in a page's form and send it."""
    assert page.status_code == 200, page.text
    hidden = {name: value.replace("&amp;", "&") for name, value in HIDDEN.findall(page.text)}
    return browser.post(path, data=hidden | fields)


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """A function that starts a rendered service as a process and waits until it is ready."""
    with ExitStack() as stack:

        def start(service: Path, *command: str, **variables: str) -> Running:
            running = Running(service, tmp_path_factory.mktemp("log") / "log", *command, **variables)
            stack.callback(running.kill)
            return running.wait_ready()

        yield start


@pytest.fixture(scope="module")
def auth(installed: Render, start: Start) -> Iterator[Auth]:
    """The auth service with a user who is a clerk."""
    auth = Auth(start(installed(service_kind="auth"), "-m", "order_service", **CHEAP))
    auth.ask("PUT", "/v1/roles/clerk", permissions=["orders:write"])
    auth.ask("POST", "/v1/users", email=EMAIL, name="Ada", password=PASSWORD, roles=["clerk"])
    yield auth
    auth.http.close()


@pytest.fixture
def client(auth: Auth) -> dict[str, Any]:
    """A confidential client that users have to allow."""
    grants = ["authorization_code", "refresh_token"]
    return auth.ask("POST", "/v1/clients", name="Party", redirect_uris=[CALLBACK], grants=grants)


def test_its_own_tests_pass_on_postgresql_and_redis(
    installed: Render, postgresql_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgresql_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    make(installed(service_kind="auth"), "test")


async def test_authlibs_client_completes_every_step(auth: Auth, client: dict[str, Any]) -> None:
    seen: dict[str, Any] = {}
    oauth = OAuth()
    oauth.register(
        "auth",
        client_id=client["id"],
        client_secret=client["secret"],
        server_metadata_url=f"{auth.url}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid profile email", "code_challenge_method": "S256", "trust_env": False},
    )

    async def login(request: Request) -> Response:
        answer: Response = await oauth.auth.authorize_redirect(request, CALLBACK)
        return answer

    async def callback(request: Request) -> Response:
        token = await oauth.auth.authorize_access_token(request)
        seen.update(token=token, userinfo=await oauth.auth.userinfo(token=token))
        return JSONResponse({})

    party = Starlette(routes=[Route("/login", login), Route("/callback", callback)])
    kept: dict[str, Any] = {}

    async def with_session(scope: Any, receive: Any, send: Any) -> None:
        await party(scope | {"session": kept}, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(with_session), base_url="http://party") as browser:
        address = (await browser.get("/login")).headers["location"]
        back = auth.browse(address)
        assert back.startswith(f"{CALLBACK}?")
        assert (await browser.get(f"/callback?{urlsplit(back).query}")).status_code == 200

    token = seen["token"]
    assert token["userinfo"]["iss"] == auth.url
    assert seen["userinfo"]["email"] == EMAIL
    assert parse_qs(urlsplit(back).query)["iss"] == [auth.url]
    async with AsyncOAuth2Client(client["id"], client["secret"], trust_env=False) as session:
        refreshed = await session.refresh_token(f"{auth.url}/token", refresh_token=token["refresh_token"])
        assert refreshed["access_token"] != token["access_token"]
        revoked = await session.revoke_token(f"{auth.url}/revoke", token=refreshed["refresh_token"])
        assert revoked.status_code == 200
        with pytest.raises(Exception, match="invalid_grant"):
            await session.refresh_token(f"{auth.url}/token", refresh_token=refreshed["refresh_token"])


def test_openid_client_of_npm_completes_every_step(auth: Auth, client: dict[str, Any], tmp_path: Path) -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        missing("node and npm are not on this machine")
    folder = shutil.copytree(Path(__file__).parent / "openid_client", tmp_path / "party")
    subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True, timeout=300
    )
    variables = {"ISSUER": auth.url, "CLIENT_ID": client["id"], "CLIENT_SECRET": client["secret"]}
    party = subprocess.Popen(
        [str(shutil.which("node")), "client.mjs"],
        cwd=folder,
        env=variables | {"REDIRECT_URI": CALLBACK},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert party.stdout is not None
    address = party.stdout.readline().strip()
    printed, errors = party.communicate(f"{auth.browse(address)}\n" if address else "", timeout=60)
    assert party.returncode == 0, errors
    seen = json.loads(printed)
    assert (seen["claims"]["iss"], seen["userinfo"]["email"]) == (auth.url, EMAIL)
    assert seen["userinfo"]["sub"] == seen["claims"]["sub"]
    assert seen["active"] == [True, False]
    assert seen["refusal"] == "invalid_grant"


@pytest.fixture(scope="module")
def shop(render: Render, start: Start, auth: Auth, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """Another rendered service, whose owner guards a route."""
    service = render(service_name="shop-service", service_kind="fastapi")
    project = service / "pyproject.toml"
    project.write_text(project.read_text().replace("tracing]", "tracing,auth]", 1))
    make(service, "install")
    script = tmp_path_factory.mktemp("shop") / "guarded.py"
    script.write_text(GUARDED)
    trusts = {"AUTH_ISSUER": auth.url, "AUTH_AUDIENCE": "orders", "AUTH_KEYS_PAUSE": "0"}
    return start(service, str(script), **trusts)


class TestAServiceThatTrustsIt:
    def call(self, shop: Running, token: str | None) -> httpx2.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx2.post(f"{shop.url}/guarded", headers=headers, trust_env=False, timeout=30)

    def test_a_token_with_the_permission_is_let_in(self, auth: Auth, shop: Running) -> None:
        robot = auth.robot("orders:write")
        answer = self.call(shop, auth.client_token(robot))
        assert (answer.status_code, answer.json()) == (200, robot[0])

    def test_a_token_without_it_is_not(self, auth: Auth, shop: Running) -> None:
        answer = self.call(shop, auth.client_token(auth.robot("orders:read")))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert 'scope="orders:write"' in answer.headers["www-authenticate"]

    def test_nor_is_a_token_for_somebody_else(self, auth: Auth, shop: Running) -> None:
        answer = self.call(shop, auth.client_token(auth.robot("orders:write", audience="billing")))
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid-token")

    def test_nor_who_has_no_token(self, shop: Running) -> None:
        assert self.call(shop, None).headers["www-authenticate"] == "Bearer"

    def test_a_new_key_is_known_at_once_and_the_old_one_is_still_good(self, auth: Auth, shop: Running) -> None:
        robot = auth.robot("orders:write")
        old = auth.client_token(robot)
        auth.ask("POST", "/v1/keys/rotate", at_once=True)
        new = auth.client_token(robot)
        assert [self.call(shop, token).status_code for token in (new, old)] == [200, 200]

    def test_tokens_are_verified_while_the_auth_service_is_down(
        self, installed: Render, start: Start, auth: Auth, shop: Running
    ) -> None:
        tokens = [auth.client_token(auth.robot("orders:write")) for _ in range(2)]
        assert self.call(shop, tokens[0]).status_code == 200
        auth.running.kill()
        assert self.call(shop, tokens[1]).status_code == 200

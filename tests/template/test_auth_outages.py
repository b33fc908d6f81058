"""The auth service on a real PostgreSQL and a real Redis, each killed for ten seconds under load and started again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from marty_lib.testing import status

from tests.conftest import Render
from tests.servers.server import Server
from tests.template.test_auth import BOOTSTRAP, CALLBACK, CHEAP, PASSWORD, Auth, Running, submit
from tests.template.test_database import execute, migrated, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("auth")]

OUTAGE = 10.0
PATIENCE = 120.0
# Of RFC 7636, appendix B.
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
WITHOUT_REDIS = {
    "log in": 503,
    "get a code": 503,
    "exchange a code": 503,
    "introspect": 503,
    "administer": 503,
    "act for itself": 200,
    "refresh": 200,
    "fetch keys": 200,
}

WITHOUT_DATABASE = dict.fromkeys(WITHOUT_REDIS, 503)


class User:
    """Somebody whose browser is logged in, and a client that refreshes what they have allowed it."""

    def __init__(self, auth: Auth, client: tuple[str, str], name: str) -> None:
        self.id = auth.ask("POST", "/v1/users", email=f"{name}@example.com", name=name, password=PASSWORD)["id"]
        self.email, self.client = f"{name}@example.com", client
        self.http, self.endpoint = (httpx2.Client(base_url=auth.url, trust_env=False, timeout=60) for _ in range(2))
        self.page = self.authorize()
        self.http.get(self.log_in().headers["location"])
        self.refresh_token = self.exchange(self.code()).json()["refresh_token"]
        self.answers: Counter[int] = Counter()
        """Of refreshes under load."""
        self.twice: list[int] = []
        """How often each code was good that was spent twice at once."""

    def authorize(self) -> httpx2.Response:
        """Ask for a code."""
        asked = {
            "client_id": self.client[0],
            "redirect_uri": CALLBACK,
            "response_type": "code",
            "scope": "openid",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        return self.http.get("/authorize", params=asked)

    def log_in(self) -> httpx2.Response:
        """Fill in the login page."""
        return submit(self.http, self.page, "/login", email=self.email, password=PASSWORD)

    def code(self) -> str:
        """Return a code."""
        return parse_qs(urlsplit(self.authorize().headers["location"]).query)["code"][0]

    def token(self, **parameters: str) -> httpx2.Response:
        """Ask the token endpoint as the client."""
        return self.endpoint.post("/token", data=parameters, auth=self.client)

    def exchange(self, code: str) -> httpx2.Response:
        """Exchange a code."""
        proof = {"redirect_uri": CALLBACK, "code_verifier": VERIFIER}
        return self.token(grant_type="authorization_code", code=code, **proof)

    def refresh(self) -> int:
        """Use the newest refresh token; keep it where the answer says to ask again."""
        answer = self.token(grant_type="refresh_token", refresh_token=self.refresh_token)
        if answer.status_code == 200:
            self.refresh_token = answer.json()["refresh_token"]
        self.answers[answer.status_code] += 1
        return answer.status_code

    def spend_twice(self, pool: ThreadPoolExecutor) -> None:
        """Get a code where that is possible, and exchange it twice at once."""
        asked = self.authorize()
        if asked.status_code == 303:
            code = parse_qs(urlsplit(asked.headers["location"]).query)["code"][0]
            answers = [answer.status_code for answer in pool.map(self.exchange, [code, code])]
            assert set(answers) <= {200, 400, 503}
            self.twice.append(answers.count(200))
        else:
            assert asked.status_code == 503


class Load:
    """Users who refresh without a pause, and one whose codes somebody else has, too."""

    def __init__(self, users: list[User], robbed: User) -> None:
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(len(users) + 3)
        self._work = [self._pool.submit(self._refresh, user) for user in users]
        self._work.append(self._pool.submit(self._rob, robbed))

    def _refresh(self, user: User) -> None:
        while not self._ended.is_set() and user.refresh() in (200, 503):
            pass

    def _rob(self, user: User) -> None:
        while not self._ended.is_set():
            user.spend_twice(self._pool)

    def end(self) -> None:
        """End the load; raise what has gone wrong in it."""
        self._ended.set()
        for work in self._work:
            work.result(PATIENCE)
        self._pool.shutdown()


@pytest.fixture
def auth(installed: Render, tmp_path: Path, postgresql_server: Server, redis_server: Server) -> Iterator[Auth]:
    """The auth service on servers of its own."""
    service = installed(service_kind="auth")
    url = migrated(service, postgresql_server.url)
    servers = {"DATABASE_URL": url, "REDIS_URL": redis_server.url, "LOG_FORMAT": "json"}
    patient = {"OAUTH_TOKEN_SECONDS": "3600", "OAUTH_CODE_SECONDS": "600"}
    running = Running(service, tmp_path / "log", "-m", "order_service", **CHEAP, **servers, **patient).wait_ready()
    auth = Auth(running)
    yield auth
    auth.http.close()
    running.kill()


@pytest.fixture
def users(auth: Auth) -> Iterator[list[User]]:
    """Five users of one client, which users need not allow."""
    wanted: dict[str, Any] = {
        "name": "Shop",
        "redirect_uris": [CALLBACK],
        "grants": ["authorization_code", "refresh_token"],
        "scopes": ["openid"],
        "trusted": True,
    }
    made = auth.ask("POST", "/v1/clients", **wanted)
    users = [User(auth, (made["id"], made["secret"]), name) for name in ("ada", "bob", "cyd", "dan", "eve")]
    yield users
    for user in users:
        user.http.close()
        user.endpoint.close()


@contextmanager
def killed(server: Server) -> Iterator[None]:
    """Kill a server, and start it again on the same port with the same data."""
    server.kill()
    yield
    server.start()


def readiness(auth: Auth, name: str) -> tuple[int, bool]:
    """Return the status of readiness, and what it says of a dependency."""
    answer = httpx2.get(f"{auth.running.ops}/health/ready", trust_env=False, timeout=30)
    return answer.status_code, answer.json()["checks"][name]["up"]


def for_a_while(check: Callable[[], None]) -> None:
    """Check again and again until the outage has been long enough."""
    ends = time.monotonic() + OUTAGE
    while time.monotonic() < ends:
        check()


def asked(auth: Auth, user: User, code: str) -> dict[str, int]:
    """Do each thing that the service is for; return what it answers."""
    token = {"token": auth.admin["authorization"].removeprefix("Bearer ")}
    answers = {
        "log in": user.log_in(),
        "get a code": user.authorize(),
        "exchange a code": user.exchange(code),
        "introspect": auth.http.post("/introspect", data=token, auth=user.client),
        "administer": auth.http.get("/v1/users", headers=auth.admin),
        "act for itself": auth.http.post("/token", data={"grant_type": "client_credentials"}, auth=BOOTSTRAP),
        "fetch keys": auth.http.get("/jwks"),
    }
    return {what: answer.status_code for what, answer in answers.items()} | {"refresh": user.refresh()}


def same(found: dict[str, int], wanted: dict[str, int]) -> None:
    """Fail where something is answered in another way."""
    assert found == wanted


def refreshed(url: str, user: User) -> int:
    """Return how often the database says that a user's tokens were refreshed."""
    everybody = execute(url, "SELECT string_agg(subject, ' ') FROM audit_events WHERE event = 'token.refreshed'")
    return str(everybody).split().count(user.id)


def decided(user: User, code: str) -> int:
    """Return what is answered to a code that was used; a busy machine may be told to ask again, as clients do."""
    found: list[int] = []

    def answered() -> bool:
        found.append(user.exchange(code).status_code)
        return found[-1] != 503

    until(answered, PATIENCE)
    return found[-1]


def test_neither_outage_costs_a_login_or_a_restart_and_no_code_is_good_twice(
    auth: Auth, users: list[User], postgresql_server: Server, redis_server: Server
) -> None:
    *refreshing, robbed, waiting = users
    kept, used = waiting.code(), waiting.code()
    family = waiting.exchange(used).json()["refresh_token"]
    load = Load(refreshing, robbed)

    def going_on() -> bool:
        before, codes = [(user, user.answers[200]) for user in refreshing], len(robbed.twice)
        until(lambda: all(user.answers[200] > count for user, count in before), PATIENCE)
        until(lambda: len(robbed.twice) > codes + 1, PATIENCE)
        return True

    assert going_on()
    with killed(redis_server):
        until(lambda: readiness(auth, "redis") == (200, False), PATIENCE)
        for_a_while(lambda: same(asked(auth, waiting, kept), WITHOUT_REDIS))
        assert status(f"{auth.running.ops}/health/live") == 200
    until(lambda: readiness(auth, "redis") == (200, True), PATIENCE)
    assert going_on()
    assert {user.answers[503] for user in refreshing} == {0}
    assert waiting.exchange(kept).status_code == 200
    assert [decided(waiting, code) for code in (kept, used)] == [400, 400]
    assert waiting.token(grant_type="refresh_token", refresh_token=family).status_code == 400

    with killed(postgresql_server):
        until(lambda: readiness(auth, "database") == (503, False), PATIENCE)
        # Keys are published from memory until they are due to be looked at.
        for_a_while(lambda: same(asked(auth, waiting, "none") | {"fetch keys": 503}, WITHOUT_DATABASE))
        assert status(f"{auth.running.ops}/health/live") == 200
    until(lambda: readiness(auth, "database") == (200, True), PATIENCE)
    for user in [each for each in refreshing if each.answers[400]]:
        # It was refreshed, but the answer was lost with the server: nobody can tell this from a theft.
        assert refreshed(postgresql_server.url, user) == user.answers[200] + 1
    refreshing = [user for user in refreshing if not user.answers[400]]
    assert going_on()
    load.end()

    assert all(set(user.answers) == {200, 503} for user in refreshing)
    assert max(robbed.twice) <= 1
    auth.running.process.terminate()
    assert auth.running.process.wait(PATIENCE) == 0

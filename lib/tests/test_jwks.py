"""The issuer's keys: found, renewed, rotated, and used while the issuer is down."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey
from marty_lib import Unauthenticated, Unavailable, Verifier
from marty_lib._issuer import Issuer
from marty_lib._jwks import usable
from marty_lib.testing import Clock, FaultyServer
from prometheus_client import REGISTRY

MakeVerifier = Callable[..., Verifier]
Soon = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
async def make_verifier(issuer: Issuer, clock: Clock) -> AsyncIterator[MakeVerifier]:
    """A function that returns a verifier that remembers no token, on a clock that waits for nobody."""
    made = []

    def make(**settings: Any) -> Verifier:
        usual = {"cache_size": 0, "keys_lifetime": 300, "keys_stale": 3600, "keys_pause": 10, "timeout": 20}
        made.append(Verifier(issuer.settings(**usual | settings), clock=clock))
        return made[-1]

    yield make
    for verifier in made:
        await verifier.stop()


@pytest.fixture
def verifier(make_verifier: MakeVerifier) -> Verifier:
    """A verifier of the issuer's tokens."""
    return make_verifier()


def fetches(outcome: str) -> float:
    return REGISTRY.get_sample_value("auth_keys_fetched_total", {"outcome": outcome}) or 0.0


class TestFound:
    async def test_by_the_metadata_of_openid_connect(self, issuer: Issuer, verifier: Verifier) -> None:
        assert await verifier.verify(issuer.token())

    async def test_by_the_metadata_of_oauth_where_the_issuer_has_a_path(
        self, issuer: Issuer, make_verifier: MakeVerifier
    ) -> None:
        issuer.path = "/tenant"
        issuer.metadata_path = "/.well-known/oauth-authorization-server/tenant"

        assert await make_verifier(issuer=issuer.url).verify(issuer.token())

    async def test_by_their_address(self, issuer: Issuer, make_verifier: MakeVerifier) -> None:
        issuer.metadata = None

        assert await make_verifier(jwks_url=f"{issuer.url}/jwks").verify(issuer.token())

    @pytest.mark.parametrize("metadata", [{"issuer": "https://elsewhere.example"}, {"issuer": None}, None])
    async def test_not_by_the_metadata_of_somebody_else(
        self, issuer: Issuer, verifier: Verifier, metadata: dict[str, Any] | None
    ) -> None:
        issuer.metadata = metadata
        with pytest.raises(Unavailable):
            await verifier.verify(issuer.token())

        assert issuer.fetches == 0

    async def test_before_the_first_call(self, issuer: Issuer, verifier: Verifier, soon: Soon) -> None:
        await verifier.start()

        await soon(lambda: issuer.fetches)


class TestOneFlight:
    async def test_all_who_wait_are_served_by_one_fetch(self, issuer: Issuer, verifier: Verifier) -> None:
        tokens = [issuer.token(jti=str(number)) for number in range(50)]
        issuer.answering.clear()
        waiting = [asyncio.create_task(verifier.verify(token)) for token in tokens]
        await asyncio.sleep(0)
        issuer.answering.set()

        assert {principal.subject for principal in await asyncio.gather(*waiting)} == {"ada"}
        assert issuer.fetches == 1

    async def test_one_who_leaves_does_not_take_the_fetch_away(self, issuer: Issuer, verifier: Verifier) -> None:
        issuer.answering.clear()
        first = asyncio.create_task(verifier.verify(issuer.token()))
        second = asyncio.create_task(verifier.verify(issuer.token()))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait({first})
        issuer.answering.set()

        assert (await second).subject == "ada"
        assert issuer.fetches == 1


class TestRotation:
    async def test_a_new_key_is_asked_for_at_once(self, issuer: Issuer, verifier: Verifier, clock: Clock) -> None:
        await verifier.verify(issuer.token())
        clock.advance(10)
        issuer.rotate()

        assert await verifier.verify(issuer.token())
        assert issuer.fetches == 2

    async def test_keys_that_nobody_has_heard_of_make_no_traffic(
        self, issuer: Issuer, verifier: Verifier, clock: Clock
    ) -> None:
        await verifier.verify(issuer.token())
        clock.advance(10)
        for number in range(50):
            with pytest.raises(Unauthenticated):
                await verifier.verify(issuer.token(header={"kid": f"made-up-{number}"}))

        assert issuer.fetches == 2

    async def test_a_withdrawn_key_is_refused_once_the_keys_are_renewed(
        self, issuer: Issuer, verifier: Verifier, clock: Clock
    ) -> None:
        token = issuer.token()
        await verifier.verify(token)
        issuer.rotate()
        clock.advance(301)

        with pytest.raises(Unauthenticated):
            await verifier.verify(token)

    async def test_both_keys_are_good_while_they_overlap(
        self, issuer: Issuer, verifier: Verifier, clock: Clock
    ) -> None:
        old = issuer.token()
        issuer.keys.insert(0, ECKey.generate_key("P-256", auto_kid=True))

        assert await verifier.verify(old)
        assert await verifier.verify(issuer.token())

    async def test_keys_are_renewed_in_the_background_before_they_are_old(
        self, issuer: Issuer, verifier: Verifier, clock: Clock, soon: Soon
    ) -> None:
        await verifier.verify(issuer.token())
        clock.advance(250)
        issuer.answering.clear()

        assert await verifier.verify(issuer.token())  # without waiting for the issuer, which hangs
        issuer.answering.set()
        await soon(lambda: issuer.fetches == 2)


class TestOutage:
    async def test_known_keys_are_used_while_the_issuer_is_down(
        self, issuer: Issuer, verifier: Verifier, clock: Clock
    ) -> None:
        await verifier.verify(issuer.token())
        before = fetches("error")
        await issuer.kill()
        clock.advance(3000)

        assert await verifier.verify(issuer.token())
        assert fetches("error") == before + 1

    async def test_but_not_for_ever(self, issuer: Issuer, verifier: Verifier, clock: Clock) -> None:
        await verifier.verify(issuer.token())
        await issuer.kill()
        clock.advance(300 + 3600 + 1)

        with pytest.raises(Unavailable):
            await verifier.verify(issuer.token())

    async def test_without_keys_the_caller_learns_when_to_ask_again(self, issuer: Issuer, verifier: Verifier) -> None:
        await issuer.kill()
        with pytest.raises(Unavailable) as caught:
            await verifier.verify(issuer.token())

        assert caught.value.headers == {"Retry-After": "10"}

    async def test_an_issuer_that_is_down_is_not_asked_by_every_call(
        self, issuer: Issuer, verifier: Verifier, clock: Clock
    ) -> None:
        before = fetches("error")
        await issuer.kill()
        for _ in range(10):
            with pytest.raises(Unavailable):
                await verifier.verify(issuer.token())

        assert fetches("error") == before + 1

    async def test_it_recovers_by_itself(self, issuer: Issuer, verifier: Verifier, clock: Clock) -> None:
        await issuer.kill()
        with pytest.raises(Unavailable):
            await verifier.verify(issuer.token())
        await issuer.restart()
        clock.advance(10)

        assert await verifier.verify(issuer.token())

    async def test_an_issuer_that_hangs_is_given_up(self, issuer: Issuer, make_verifier: MakeVerifier) -> None:
        issuer.answering.clear()
        with pytest.raises(Unavailable):
            await make_verifier(timeout=0.05).verify(issuer.token())

    async def test_the_event_loop_turns_while_the_issuer_hangs(self, issuer: Issuer, verifier: Verifier) -> None:
        issuer.answering.clear()
        waiting = asyncio.create_task(verifier.verify(issuer.token()))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        issuer.answering.set()

        assert await waiting

    async def test_known_keys_are_used_while_the_issuer_hangs(
        self, issuer: Issuer, make_verifier: MakeVerifier, clock: Clock
    ) -> None:
        verifier = make_verifier(timeout=1)
        await verifier.verify(issuer.token())
        issuer.answering.clear()
        clock.advance(301)

        assert await verifier.verify(issuer.token())

    @pytest.mark.parametrize("fault", ["reset", "garbage"])
    async def test_an_issuer_that_talks_nonsense_counts_as_down(
        self, issuer: Issuer, make_verifier: MakeVerifier, faulty_server: Callable[..., FaultyServer], fault: str
    ) -> None:
        async with faulty_server(fault) as server:
            with pytest.raises(Unavailable):
                await make_verifier(jwks_url=f"http://127.0.0.1:{server.port}/jwks").verify(issuer.token())

    @pytest.mark.parametrize(
        "published", [[], "nonsense", None, [None], [{"kty": "oct", "k": "c2VjcmV0"}], [{"kid": "x" * 300_000}]]
    )
    async def test_an_answer_without_keys_withdraws_none(
        self, issuer: Issuer, verifier: Verifier, clock: Clock, published: Any
    ) -> None:
        await verifier.verify(issuer.token())
        issuer.published = published
        clock.advance(301)

        assert await verifier.verify(issuer.token())

    async def test_stopping_gives_up_a_fetch_under_way(self, issuer: Issuer, verifier: Verifier) -> None:
        issuer.answering.clear()
        await verifier.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await verifier.stop()

    async def test_the_log_says_why(self, issuer: Issuer, verifier: Verifier, logs: Any) -> None:
        await issuer.kill()
        with pytest.raises(Unavailable):
            await verifier.verify(issuer.token())

        assert logs.one("auth.keys_not_fetched")["issuer"] == issuer.url


class TestHealth:
    async def test_the_check_passes_while_keys_are_usable(
        self, issuer: Issuer, verifier: Verifier, clock: Clock
    ) -> None:
        await verifier.check_keys()
        await issuer.kill()
        clock.advance(301)

        await verifier.check_keys()

    async def test_the_check_fails_without_keys(self, issuer: Issuer, verifier: Verifier) -> None:
        await issuer.kill()

        with pytest.raises(Unavailable):
            await verifier.check_keys()


class TestUsable:
    def test_symmetric_short_and_foreign_keys_are_left_out(self) -> None:
        good = ECKey.generate_key("P-256", auto_kid=True).as_dict(private=False)
        modulus = base64.urlsafe_b64encode(b"\xc1" * 128).rstrip(b"=").decode()
        others = [
            {"kty": "oct", "k": "c2VjcmV0"},
            {"kty": "RSA", "n": modulus, "e": "AQAB"},
            {"kty": "AKP", "alg": "ML-DSA-44"},
            {**good, "use": "enc"},
            {**good, "x": "nonsense"},
            {"kty": "EC"},
            {},
            None,
        ]

        assert [key.kid for key in usable({"keys": [*others, good]})] == [good["kid"]]

    def test_certificates_along_with_a_key_are_no_hindrance(self) -> None:
        key = RSAKey.generate_key(2048, auto_kid=True).as_dict(private=False)

        assert len(usable({"keys": [{**key, "x5c": ["MIIB"], "issuer": "https://i.example"}]})) == 1

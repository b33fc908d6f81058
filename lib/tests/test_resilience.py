"""Retry, breaker, deadline and bulkhead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import stamina
from marty_lib import (
    Breaker,
    Bulkhead,
    DeadlineExceeded,
    NotFound,
    RateLimited,
    Unavailable,
    context,
    deadline,
    retrying,
)
from marty_lib.resilience import transient
from marty_lib.testing import Clock
from prometheus_client import REGISTRY


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


# Breaker


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("payments", threshold=2, pause=10, clock=clock)


def state(breaker: Breaker) -> str:
    return breaker.state


def fail(breaker: Breaker, error: BaseException | None = None) -> None:
    caught = error or OSError()
    with pytest.raises(type(caught)), breaker:
        raise caught


def test_failures_in_a_row_open_it_and_nobody_asks(breaker: Breaker) -> None:
    fail(breaker)
    assert state(breaker) == "closed"
    fail(breaker)

    assert state(breaker) == "open"
    with pytest.raises(Unavailable) as refused, breaker:
        pytest.fail("it was asked")
    assert (refused.value.code, refused.value.headers) == ("circuit-open", {"Retry-After": "11"})


def test_a_success_in_between_begins_the_count_anew(breaker: Breaker) -> None:
    fail(breaker)
    with breaker:
        pass
    fail(breaker)

    assert state(breaker) == "closed"


def test_after_the_pause_one_tries_while_others_wait(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.advance(10)

    with breaker:
        assert state(breaker) == "half-open"
        with pytest.raises(Unavailable):
            breaker.admit()
    assert state(breaker) == "closed"


def test_a_trial_that_fails_opens_it_for_another_pause(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.advance(10)
    fail(breaker)

    assert state(breaker) == "open"
    clock.advance(9.9)
    with pytest.raises(Unavailable):
        breaker.admit()


def test_a_trial_that_never_tells_its_result_is_forgotten(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.advance(10)
    breaker.admit()
    clock.advance(10)

    with breaker:
        pass
    assert state(breaker) == "closed"


def test_a_trial_that_is_cancelled_lets_the_next_one_try(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.advance(10)
    fail(breaker, asyncio.CancelledError())

    assert state(breaker) == "half-open"
    with breaker:
        pass
    assert state(breaker) == "closed"


def test_an_error_of_the_callers_own_is_an_answer(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker, NotFound())

    assert state(breaker) == "closed"


def test_work_that_was_cancelled_says_nothing(breaker: Breaker) -> None:
    fail(breaker)
    fail(breaker, asyncio.CancelledError())
    fail(breaker)

    assert state(breaker) == "open"


def test_the_state_and_what_is_refused_are_counted(breaker: Breaker, logs: Any) -> None:
    before = sample("breaker_refused_total", breaker="payments")
    fail(breaker)
    fail(breaker)
    with pytest.raises(Unavailable):
        breaker.admit()

    assert sample("breaker_state", breaker="payments") == 2
    assert sample("breaker_refused_total", breaker="payments") == before + 1
    assert logs.one("breaker.changed").items() >= {"breaker": "payments", "state": "open", "level": "warning"}.items()


# Retry


@pytest.fixture
def quick() -> Iterator[None]:
    """Stamina waits for nobody."""
    stamina.set_testing(True, attempts=3)
    yield
    stamina.set_testing(False)


async def attempts_until(error: Exception, good: int, **how: Any) -> int:
    """Return at which attempt the work succeeded that fails with `error` until the one named `good`."""
    done = 0
    async for attempt in retrying(**how):
        with attempt:
            done += 1
            if done < good:
                raise error
    return done


@pytest.mark.usefixtures("quick")
async def test_what_may_do_better_is_tried_again() -> None:
    assert await attempts_until(Unavailable(), good=3) == 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [NotFound(), OSError(), DeadlineExceeded(), Unavailable(code="circuit-open")])
async def test_what_will_not_do_better_is_not(error: Exception) -> None:
    with pytest.raises(type(error)):
        await attempts_until(error, good=2)


@pytest.mark.usefixtures("quick")
async def test_which_errors_count_can_be_named() -> None:
    assert await attempts_until(OSError(), good=2, on=OSError) == 2


async def test_no_attempt_begins_after_the_deadline() -> None:
    passed = context.new(deadline=time.monotonic() - 1)
    with context.use(passed), pytest.raises(Unavailable):
        await attempts_until(Unavailable(), good=2)


def test_an_error_is_waited_for_as_long_as_it_asks() -> None:
    assert transient(RateLimited(headers={"Retry-After": "7"})) == 7
    assert transient(RateLimited()) is True


def test_who_asks_for_more_time_than_there_is_is_not_waited_for() -> None:
    with context.use(context.new(deadline=time.monotonic() + 5)):
        assert transient(Unavailable(headers={"Retry-After": "70"})) is False


# Deadline


async def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(DeadlineExceeded):
        async with deadline(0.01):
            await asyncio.Event().wait()


async def test_others_are_told_how_much_time_there_is() -> None:
    async with deadline(5):
        left = context.remaining()

    assert left is not None
    assert 0 < left <= 5
    assert context.current() is None


async def test_a_request_has_never_more_time_than_before() -> None:
    request = context.new(deadline=time.monotonic() + 1)
    with context.use(request):
        async with deadline(5):
            inside = context.current()

    assert inside == request


async def test_a_timeout_of_somebody_else_is_not_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with deadline(5):
            raise TimeoutError


# Bulkhead


Soon = Callable[[Callable[[], object]], Any]


async def hold(bulkhead: Bulkhead, gate: asyncio.Event) -> None:
    async with bulkhead:
        await gate.wait()


async def test_what_does_not_fit_is_refused() -> None:
    before = sample("bulkhead_refused_total", bulkhead="reports")
    bulkhead = Bulkhead("reports", 1)
    async with bulkhead:
        with pytest.raises(Unavailable) as refused:
            await bulkhead.__aenter__()

    assert refused.value.code == "bulkhead-full"
    assert sample("bulkhead_refused_total", bulkhead="reports") == before + 1
    async with bulkhead:
        pass


async def test_some_may_wait_and_come_in_their_order() -> None:
    bulkhead, order = Bulkhead("reports", 1, waiting=2), list[int]()
    gate = asyncio.Event()

    async def work(number: int) -> None:
        async with bulkhead:
            order.append(number)
            await gate.wait()

    tasks = [asyncio.create_task(work(number)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await bulkhead.__aenter__()
    assert order == [0]
    gate.set()
    await asyncio.gather(*tasks)

    assert order == [0, 1, 2]


async def test_who_gives_up_waiting_takes_no_place() -> None:
    bulkhead, gate = Bulkhead("reports", 1, waiting=1), asyncio.Event()
    first = asyncio.create_task(hold(bulkhead, gate))
    await asyncio.sleep(0)
    second = asyncio.create_task(hold(bulkhead, gate))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    gate.set()
    await first

    async with bulkhead:
        pass


async def test_who_is_cancelled_in_the_moment_of_its_turn_hands_it_on() -> None:
    bulkhead, gate = Bulkhead("reports", 1, waiting=2), asyncio.Event()
    first = asyncio.create_task(hold(bulkhead, gate))
    await asyncio.sleep(0)
    second = asyncio.create_task(hold(bulkhead, asyncio.Event()))
    third = asyncio.create_task(hold(bulkhead, gate))
    await asyncio.sleep(0)
    bulkhead._queue[0].set_result(None)
    bulkhead._queue.popleft()
    second.cancel()
    gate.set()

    async with asyncio.timeout(20):
        await asyncio.gather(first, third)
        await asyncio.wait({second})

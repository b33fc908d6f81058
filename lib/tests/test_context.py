"""What a piece of work carries along, from the caller's headers and on to the next service."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marty_lib import context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"

hexadecimal = "0123456789abcdef"
trace_ids = st.text(hexadecimal, min_size=32, max_size=32).filter(lambda text: set(text) != {"0"})
span_ids = st.text(hexadecimal, min_size=16, max_size=16).filter(lambda text: set(text) != {"0"})
flags = st.text(hexadecimal, min_size=2, max_size=2)
later_versions = st.text(hexadecimal, min_size=2, max_size=2).filter(lambda text: text not in ("00", "ff"))
futures = st.just("") | st.text("-_.0123abcXYZ", max_size=20).map(lambda text: f"-{text}")


def received(**headers: str | bytes) -> context.RequestContext:
    return context.from_headers(
        (name.replace("_", "-").encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in headers.items()
    )


@given(trace_ids, span_ids, flags)
def test_a_traceparent_of_version_00_is_taken(trace: str, span: str, flag: str) -> None:
    found = received(traceparent=f"00-{trace}-{span}-{flag}")

    assert (found.trace_id, found.sampled) == (trace, int(flag, 16) % 2 == 1)


@given(later_versions, trace_ids, span_ids, flags, futures)
def test_a_traceparent_of_a_later_version_may_be_longer(v: str, trace: str, span: str, flag: str, more: str) -> None:
    assert received(traceparent=f"{v}-{trace}-{span}-{flag}{more}").trace_id == trace


@given(st.binary(max_size=80))
def test_whatever_comes_as_a_traceparent_the_ids_are_well_formed(value: bytes) -> None:
    found = received(traceparent=value)

    assert re.fullmatch("[0-9a-f]{32}", found.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", found.span_id)


@pytest.mark.parametrize(
    "value",
    [
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01.",
        f"cc-{TRACE}-{SPAN}-01.what",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        "",
    ],
)
def test_a_malformed_traceparent_begins_a_new_trace(value: str) -> None:
    found = received(traceparent=value, tracestate="vendor=1")

    assert (found.trace_id == TRACE, found.sampled, found.tracestate) == (False, False, "")


def test_two_traceparents_that_differ_begin_a_new_trace() -> None:
    other = f"00-{'a' * 32}-{SPAN}-01"

    found = context.from_headers([(b"traceparent", PARENT.encode()), (b"traceparent", other.encode())])

    assert found.trace_id not in (TRACE, "a" * 32)


def test_a_hop_has_its_own_span() -> None:
    assert received(traceparent=PARENT).span_id != SPAN


def test_the_tracestate_is_passed_on_with_its_trace() -> None:
    found = received(traceparent=PARENT, tracestate="vendor=1,other=2")

    with context.use(found):
        assert context.outgoing_headers()["tracestate"] == "vendor=1,other=2"


def test_several_tracestates_are_one_list() -> None:
    found = context.from_headers(
        [(b"traceparent", PARENT.encode()), (b"tracestate", b"vendor=1"), (b"tracestate", b"other=2")]
    )

    assert found.tracestate == "vendor=1,other=2"


@given(st.binary(max_size=600))
def test_whatever_comes_in_what_goes_out_is_printable_ascii(value: bytes) -> None:
    found = received(traceparent=PARENT, tracestate=value, x_request_id=value, x_request_timeout=value)

    with context.use(found):
        assert all(re.fullmatch(r"[\t -~]+", each) for each in context.outgoing_headers().values())


@pytest.mark.parametrize("value", ["7f3c", "a" * 128, "svc/1:2=3@x+y_z.-"])
def test_a_request_id_of_the_caller_is_kept(value: str) -> None:
    assert received(x_request_id=value).request_id == value


@pytest.mark.parametrize("value", ["", "a" * 129, "a b", "a\r\nset-cookie: b", "a\n", "é", '"quoted"', "{json}"])
def test_an_unfit_request_id_is_replaced(value: str) -> None:
    found = received(x_request_id=value)

    assert found.request_id == found.trace_id


def test_what_the_caller_allows_becomes_a_deadline() -> None:
    before = time.monotonic()
    found = received(x_request_timeout="2.5")

    assert found.deadline is not None
    assert before + 2.5 <= found.deadline <= time.monotonic() + 2.5


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e9", "", "1,5", "1.", "9999999", "١"])
def test_a_malformed_timeout_is_no_deadline(value: str) -> None:
    assert received(x_request_timeout=value).deadline is None


def test_work_that_nobody_asked_for_has_ids_of_its_own() -> None:
    assert context.new().trace_id != context.new().trace_id


def test_without_headers_the_context_is_new() -> None:
    assert received().request_id != received().request_id


def test_there_is_no_context_outside_of_any_work() -> None:
    assert (context.current(), context.remaining(), context.outgoing_headers()) == (None, None, {})


def test_a_context_ends_with_its_block() -> None:
    with pytest.raises(KeyError), context.use(context.new()):
        raise KeyError
    assert context.current() is None


def test_tasks_do_not_see_each_others_context() -> None:
    async def own(name: str) -> str:
        with context.use(context.new()._replace(request_id=name)):
            await asyncio.sleep(0)
            return context.outgoing_headers()["x-request-id"]

    async def both() -> list[str]:
        return [*await asyncio.gather(own("a"), own("b"))]

    assert asyncio.run(both()) == ["a", "b"]


def test_a_deadline_that_has_passed_leaves_no_time() -> None:
    with context.use(context.new(deadline=time.monotonic() - 1)):
        assert (context.remaining(), context.outgoing_headers()["x-request-timeout"]) == (0.0, "0.000")


def test_what_goes_out_comes_in_as_the_same_trace() -> None:
    first = received(traceparent=PARENT, x_request_id="r-1", x_request_timeout="5")

    with context.use(first):
        second = context.from_headers(
            (name.encode(), value.encode()) for name, value in context.outgoing_headers().items()
        )

    assert (second.request_id, second.trace_id, second.sampled) == ("r-1", TRACE, True)
    assert second.deadline is not None
    assert first.deadline is not None
    assert second.deadline - first.deadline < 1

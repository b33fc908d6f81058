"""Errors as problem documents."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

import pytest
from marty_lib import errors
from marty_lib.errors import FieldError, InvalidInput, NotFound, ServiceError, problem

KINDS: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_docstring_lists_every_error_with_its_status_and_code(kind: type[ServiceError]) -> None:
    assert re.search(rf"^ +{kind.__name__} +{int(kind.status)} {kind.code}$", errors.__doc__ or "", re.MULTILINE)


def test_no_two_errors_share_a_status_or_a_code() -> None:
    assert len({kind.status for kind in KINDS}) == len({kind.code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_problem_has_the_members_of_rfc_9457(kind: type[ServiceError]) -> None:
    assert problem(kind("It is so.")) == {
        "type": f"urn:problem-type:{kind.code}",
        "title": HTTPStatus(kind.status).phrase,
        "status": int(kind.status),
        "detail": "It is so.",
        "code": kind.code,
    }


def test_a_problem_names_request_error_and_fields_where_they_are_known() -> None:
    error = InvalidInput("Some fields are wrong.", errors=[FieldError("/items/0", "is missing")])

    document = problem(error, request_id="r-1", error_id="e-1")

    assert json.loads(json.dumps(document))["errors"] == [{"pointer": "/items/0", "message": "is missing"}]
    assert (document["request_id"], document["error_id"]) == ("r-1", "e-1")


def test_an_error_may_have_a_code_of_its_own() -> None:
    assert problem(NotFound(code="no-such-order"))["type"] == "urn:problem-type:no-such-order"


def test_a_domains_error_inherits_status_and_code() -> None:
    class NoSuchOrder(NotFound):
        pass

    assert (NoSuchOrder().status, NoSuchOrder().code) == (404, "not-found")


def test_an_error_reads_as_its_detail() -> None:
    assert str(NotFound("There is no such order.")) == "There is no such order."

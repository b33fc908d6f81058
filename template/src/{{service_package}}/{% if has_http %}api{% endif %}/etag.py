"""Entity tags: a version as the tag of an answer, and as the condition of a change (RFC 9110, section 13)."""

import re

from marty_lib import FieldError, InvalidInput, PreconditionRequired

_TAG = re.compile(r'\s*(W/)?"([^"]*)"\s*')
NOBODYS = 0


def etag(version: int) -> str:
    """Return the tag of a version."""
    return f'"{version}"'


def matches(if_none_match: str | None, version: int) -> bool:
    """Return whether the client has this version already."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or str(version) in [tag for _, tag in _TAG.findall(if_none_match)]


def expected(if_match: str | None, *, required: bool) -> int | None:
    """Return the version that a change expects, or None where any will do.

    Raises:
        PreconditionRequired: where a version is required and none is named.
        InvalidInput: where the header is neither one tag nor *.
    """
    if if_match is None and required:
        raise PreconditionRequired("Send the ETag of what you read as If-Match, or * to change any version.")
    if if_match is None or if_match.strip() == "*":
        return None
    tag = _TAG.fullmatch(if_match)
    if tag is None:
        wrong = FieldError("header/if-match", 'must be one tag such as "3", or *')
        raise InvalidInput("The condition is wrong.", errors=[wrong])
    weak, text = tag.groups()
    # A weak tag matches nothing, nor does one that is not of this service.
    return int(text) if text.isdecimal() and not weak else NOBODYS

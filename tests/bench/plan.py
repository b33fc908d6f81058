"""How much is measured."""

from __future__ import annotations

from typing import NamedTuple


class Plan(NamedTuple):
    """How much is measured.

    Args:
        rounds: in which the servers take turns.
        seconds: of load on each server in each round.
        first: requests that each server answers before its memory is read, the same for all.
        messages: that each side publishes in each round.
        backlog: messages that each side consumes in each round; at 90,000 a second it has to last for several commits.
        renders: how often the template is rendered, and a service updated alone.
        services: of the fleet.
    """

    rounds: int = 20
    seconds: float = 0.8
    first: int = 5000
    messages: int = 4000
    backlog: int = 20_000
    renders: int = 7
    services: int = 100


QUICK = Plan(rounds=2, seconds=0.4, first=500, messages=500, backlog=2000, renders=1, services=10)

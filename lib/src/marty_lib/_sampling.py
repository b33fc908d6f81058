"""OpenTelemetry's sampler for requests that were decided on before."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import SpanKind


class _Root(Sampler):
    """Records every server span (others were left out before) and a share of the traces that begin elsewhere."""

    def __init__(self, share: float) -> None:
        self._share = TraceIdRatioBased(share)

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        chosen = ALWAYS_ON if kind is SpanKind.SERVER else self._share
        return chosen.should_sample(parent_context, trace_id, name, kind, *args, **kwargs)

    def get_description(self) -> str:
        return f"Marty{{{self._share.get_description()}}}"


class Sampled(ParentBased):
    """Follow the caller; decide on roots by their kind.

    Args:
        share: of the traces begun outside of requests that is recorded, from 0 to 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__(_Root(share))

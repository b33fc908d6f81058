"""What istiod would send to a proxy, as the configuration of an Envoy that stands on this machine.

Left out is what upstream Envoy does not have or what a machine without redirection does not need, and no more:

- Istio's own filters, by name: see `LEFT_OUT`. What `istio.alpn` would do is said to the clusters instead;
- `virtualOutbound` and `envoy.filters.listener.original_dst`, which undo the redirection of packets: every listener is
  bound to the addresses that clients call;
- what is reached by DNS;
- istiod itself: routes, endpoints and certificates are in the file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from .certificates import Authority
from .istiod import Json
from .objects import Pod

LEFT_OUT = frozenset({"istio.alpn", "istio.metadata_exchange", "istio.stats"})
REDIRECTION = "envoy.filters.listener.original_dst"
INBOUND = "virtualInbound"
# What Envoy's own program calls the protocols of `istio.alpn`; without a name it is HTTP/1.0.
HTTP2 = "HTTP2"
HTTP1 = "HTTP11"
# Their fields as Istio writes them and as Envoy shows them.
FILTERS = ("filters", "httpFilters", "http_filters")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what Istio writes; nothing is bound to it
# A port that no manifest names.
UNLISTED = 9999


def bootstrap(
    pod: Pod,
    config: Json,
    *,
    admin: int,
    applications: Mapping[int, int],
    services: Mapping[str, set[int]],
    secrets: list[Json],
) -> Json:
    """Return the configuration.

    Args:
        pod: whose proxy it is.
        config: what istiod would send.
        admin: the port of 127.0.0.1 for its own interface.
        applications: for each port of the pod, the port of 127.0.0.1 where what runs in it listens.
        services: for each address of a Service its ports.
        secrets: what istiod's agent would give it.
    """
    config = copy.deepcopy(config)
    clusters = [cluster for cluster in config["clusters"] if cluster["type"] != "STRICT_DNS"]
    endpoints = {each["clusterName"]: each for each in config["endpoints"]}
    protocols = alpn(config["listeners"])
    for cluster in clusters:
        settle(cluster, endpoints, applications)
        speak(cluster, protocols)
    listeners = list(bound(config["listeners"], pod, services))
    routes = {route["name"]: route for route in config["routes"]}
    whole = {
        "node": {"id": pod.name, "cluster": pod.namespace},
        "admin": {"address": address("127.0.0.1", admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters, "secrets": secrets},
    }
    for each in every(whole):
        each.pop("sdsConfig", None)
        if "rds" in each:
            each["routeConfig"] = routes[each.pop("rds")["routeConfigName"]]
        for name in ("filters", "httpFilters", "listenerFilters"):
            if isinstance(each.get(name), list):
                each[name] = [entry for entry in each[name] if entry.get("name") not in {*LEFT_OUT, REDIRECTION}]
    return whole


def filters(config: Json) -> set[str]:
    """Return the names of all filters."""
    found = (entry for each in every(config) for name in FILTERS for entry in each.get(name, []))
    return {entry["name"] for entry in found if "name" in entry}


def every(value: Any) -> Iterator[Json]:
    """Yield all objects within a value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from every(each)


def address(host: str, port: int) -> Json:
    """Return an address as Envoy reads it."""
    return {"socketAddress": {"address": host, "portValue": port}}


def settle(cluster: Json, endpoints: Mapping[str, Json], applications: Mapping[int, int]) -> None:
    """Write into a cluster where its endpoints are."""
    name = cluster["name"]
    if cluster["type"] == "EDS":
        del cluster["edsClusterConfig"]
        cluster |= {"type": "STATIC", "loadAssignment": endpoints[name]}
    elif name.startswith("inbound|"):
        port = applications[int(name.split("|")[1])]
        local = [{"lbEndpoints": [{"endpoint": {"address": address("127.0.0.1", port)}}]}]
        cluster |= {"type": "STATIC", "loadAssignment": {"clusterName": name, "endpoints": local}}
        del cluster["lbPolicy"]


def alpn(listeners: list[Json]) -> dict[str, list[str]]:
    """Return what `istio.alpn` would offer for each protocol."""
    configs = [each["typedConfig"] for each in every(listeners) if each.get("name") == "istio.alpn"]
    return {each.get("upstreamProtocol", "HTTP10"): each["alpnOverride"] for each in configs[0]["alpnOverride"]}


def speak(cluster: Json, protocols: Mapping[str, list[str]]) -> None:
    """Have a cluster offer within TLS what `istio.alpn` would."""
    http2 = any("http2ProtocolOptions" in each for each in every(cluster.get("typedExtensionProtocolOptions", {})))
    for each in every(cluster.get("transportSocketMatches", [])):
        if "alpnProtocols" in each:
            each["alpnProtocols"] = protocols[HTTP2 if http2 else HTTP1]


def bound(listeners: list[Json], pod: Pod, services: Mapping[str, set[int]]) -> Iterator[Json]:
    """Yield the listeners on the addresses that clients call: those of the pod, and those of Services."""
    gateway = all(listener["name"] != INBOUND for listener in listeners)
    for listener in listeners:
        at = listener["address"]["socketAddress"]
        host, port = at["address"], at["portValue"]
        if listener["name"] == INBOUND:
            places = [(pod.address, number) for number in (*pod.ports.values(), UNLISTED) if pod.ports]
        elif listener["name"].startswith("virtual"):
            continue
        elif gateway:
            places = [(pod.address, port)]
        else:
            places = [(each, port) for each, ports in services.items() if port in ports and host in (each, EVERYWHERE)]
        if places:
            first, *others = [address(*place) for place in places]
            listener.pop("bindToPort", None)
            yield listener | {"address": first, "additionalAddresses": [{"address": each} for each in others]}


def identity(authority: Authority, pod: Pod) -> list[Json]:
    """Return the secrets that every proxy has: who it is, and who may say so."""
    return [secret("default", *authority.identity(pod.namespace, pod.account)), trust("ROOTCA", authority)]


def secret(name: str, certificate: str, key: str) -> Json:
    """Return a certificate under a name."""
    pair = {"certificateChain": {"inlineString": certificate}, "privateKey": {"inlineString": key}}
    return {"name": name, "tlsCertificate": pair}


def trust(name: str, authority: Authority) -> Json:
    """Return an authority under a name."""
    return {"name": name, "validationContext": {"trustedCa": {"inlineString": authority.pem}}}

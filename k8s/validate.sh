#!/usr/bin/env bash
# Says whether the cluster is what setup-cluster.sh makes; exits 1 where it is not, after all checks.
#
#   validate.sh [--service-mesh istio|linkerd|none] [--no-observability] [--name NAME]

# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

WRONG=0

options --service-mesh --no-observability --name -- "$@"
cluster_exists || fail 1 "there is no cluster $NAME: make it with k8s/setup-cluster.sh --name $NAME"

# check WHAT REMEDY COMMAND...
check() {
  local what=$1 remedy=$2
  shift 2
  if "$@" >/dev/null 2>&1; then
    printf 'ok     %s\n' "$what"
  else
    printf 'WRONG  %s: %s\n' "$what" "$remedy"
    WRONG=1
  fi
}

# shellcheck disable=SC2329 # called by check, as the next
ready() { kube wait --for=condition=Available deployment --all --namespace "$1" --timeout 60s; }

# What must be refused, and by the policy of that name: any other error is no proof.
# shellcheck disable=SC2329
refused() {
  local said
  said=$(kube create --dry-run=server --filename "$HERE/policies/refused/$1.yaml" 2>&1) && return 1
  [[ $said == *"marty-$1"* ]]
}

# shellcheck disable=SC2329
redirected() {
  [[ $(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' http://127.0.0.1:8080/) == 301 ]]
}

AGAIN="run k8s/setup-cluster.sh again with the same options"
check "all nodes are ready" "kubectl describe nodes" kube wait --for=condition=Ready nodes --all --timeout 60s
check "it was made with --service-mesh $MESH" "it was made with $(mesh_of_cluster)" test "$(mesh_of_cluster)" = "$MESH"
check "the registry answers" "$AGAIN" curl --fail --silent --max-time 5 "http://127.0.0.1:$REGISTRY_PORT/v2/"
check "cert-manager is up" "$AGAIN" ready cert-manager
check "metrics are served" "$AGAIN" kube get --raw /apis/metrics.k8s.io/v1beta1/nodes
check "the shared Gateway is up" "kubectl describe gateway --namespace $(gateway_namespace)" \
  kube wait --for=condition=Programmed gateway/shared-gateway --namespace "$(gateway_namespace)" --timeout 60s
check "it has a certificate" "kubectl describe certificate --namespace $(gateway_namespace)" \
  kube wait --for=condition=Ready certificate/shared-gateway --namespace "$(gateway_namespace)" --timeout 60s
check "it leads from HTTP to HTTPS" "curl --verbose http://127.0.0.1:8080/" redirected
for policy in latest limits name root; do
  check "what must not be is refused: $policy" "$AGAIN" refused "$policy"
done
case $MESH in
  istio)
    check "Istio is up" "istioctl --context kind-$NAME analyze --all-namespaces" ready istio-system
    check "Istio finds no mistake" "istioctl --context kind-$NAME analyze --all-namespaces" \
      mesh analyze --all-namespaces --failure-threshold Error
    ;;
  linkerd) check "Linkerd finds no mistake" "linkerd --context kind-$NAME check" mesh check --wait 60s ;;
esac
if [[ $OBSERVABILITY == true ]]; then
  check "observability is up" "$AGAIN" ready monitoring
  check "Kafka's parts are up" "$AGAIN" ready kafka
fi
exit "$WRONG"

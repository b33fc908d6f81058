#!/usr/bin/env bash
# Makes a cluster on this machine, with all that services made by Marty plug into. May run again, and then mends.
#
#   setup-cluster.sh [--service-mesh istio|linkerd|none] [--no-observability] [--name NAME]
#
# Images pushed to localhost:5001 are pulled by the cluster: render services with --data image_registry=localhost:5001.

# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DOWNLOADS=https://github.com
CHARTS=oci://docker.io/envoyproxy
NEEDS_HELM=true

options --service-mesh --no-observability --name -- "$@"

begin() {
  CURRENT=$*
  step "$CURRENT"
}

say_where_it_stopped() {
  local code=$?
  if ((code)) && [[ -n $CURRENT ]]; then
    printf '%s\n' "${0##*/}: this step failed: $CURRENT" \
      "Run the script again when it is mended, and it goes on; or remove all: k8s/cleanup.sh --name $NAME" >&2
  fi
}
trap say_where_it_stopped EXIT

# again TIMES COMMAND...: until it succeeds, every five seconds.
again() {
  local times=$1
  shift
  until "$@"; do
    ((--times)) || return 1
    sleep 5
  done
}

start_registry() {
  case $(docker inspect --format '{{.State.Running}}' "$REGISTRY_NAME" 2>/dev/null || true) in
    true) ;;
    false) docker start "$REGISTRY_NAME" >/dev/null ;;
    *)
      docker run --detach --restart unless-stopped --publish "127.0.0.1:$REGISTRY_PORT:5000" \
        --name "$REGISTRY_NAME" "$REGISTRY_IMAGE" >/dev/null
      ;;
  esac
}

create_cluster() {
  if cluster_exists; then
    local made_with
    made_with=$(mesh_of_cluster)
    [[ -z $made_with || $made_with == "$MESH" ]] ||
      fail 1 "cluster $NAME was made with --service-mesh $made_with: clean it up first, or make another with --name"
  else
    kind create cluster --name "$NAME" --image "$NODE_IMAGE" --config "$HERE/kind.yaml" --wait 180s
  fi
  kube create configmap marty-cluster --namespace kube-system --from-literal "mesh=$MESH" \
    --dry-run=client --output yaml | apply --filename -
}

# Nodes look for localhost:5001 at the registry's container, which is on their network.
connect_registry() {
  local node nodes folder=/etc/containerd/certs.d/localhost:$REGISTRY_PORT
  nodes=$(kind get nodes --name "$NAME")
  for node in $nodes; do
    docker exec "$node" mkdir -p "$folder"
    docker exec --interactive "$node" cp /dev/stdin "$folder/hosts.toml" <<<"[host.\"http://$REGISTRY_NAME:5000\"]"
  done
  [[ -n $(docker inspect --format '{{with index .NetworkSettings.Networks "kind"}}yes{{end}}' "$REGISTRY_NAME") ]] ||
    docker network connect kind "$REGISTRY_NAME"
  apply --filename "$HERE/registry.yaml"
}

install_addons() {
  apply --filename "$DOWNLOADS/kubernetes-sigs/gateway-api/releases/download/$GATEWAY_API_VERSION/standard-install.yaml"
  apply --filename "$DOWNLOADS/cert-manager/cert-manager/releases/download/$CERT_MANAGER_VERSION/cert-manager.yaml"
  apply --filename "$DOWNLOADS/kubernetes-sigs/metrics-server/releases/download/$METRICS_SERVER_VERSION/components.yaml"
  # kind's kubelets have certificates of their own making.
  kube patch deployment metrics-server --namespace kube-system --type json --patch \
    '[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--kubelet-insecure-tls"}]'
  kube rollout status deployment --namespace cert-manager --timeout 180s
}

install_istio() {
  istioctl --context "kind-$NAME" install --skip-confirmation --filename "$HERE/mesh/istio/install.yaml"
}

install_linkerd() {
  mesh install-cni --values "$HERE/mesh/linkerd/cni.yaml" | apply --filename -
  kube rollout status daemonset/linkerd-cni --namespace linkerd-cni --timeout 180s
  mesh check --pre --linkerd-cni-enabled
  local action=install
  ! kube get deployment linkerd-destination --namespace linkerd >/dev/null 2>&1 || action=upgrade
  mesh "$action" --crds | apply --filename -
  mesh "$action" --linkerd-cni-enabled --values "$HERE/mesh/linkerd/install.yaml" | apply --filename -
  mesh check
}

# Envoy Gateway, which is the shared Gateway's where Istio is not.
install_envoy_gateway() {
  apply --filename "$HERE/ingress/envoy/namespaces.yaml"
  helm template gateway-crds "$CHARTS/gateway-crds-helm" --version "$ENVOY_GATEWAY_VERSION" \
    --set crds.gatewayAPI.enabled=false --set crds.envoyGateway.enabled=true | apply --filename -
  helm --kube-context "kind-$NAME" upgrade --install envoy-gateway "$CHARTS/gateway-helm" \
    --version "$ENVOY_GATEWAY_VERSION" --namespace envoy-gateway-system --skip-crds \
    --values "$HERE/ingress/envoy-gateway.yaml" --wait --timeout 180s
}

install_ingress() {
  [[ $MESH == istio ]] || install_envoy_gateway
  # cert-manager's webhook has its own certificate a moment after its pods are ready.
  again 12 apply --kustomize "$HERE/ingress/issuers"
  apply --kustomize "$HERE/ingress/$(gateway_folder)"
  kube wait --for=condition=Ready certificate/shared-gateway --namespace "$(gateway_namespace)" --timeout 120s
  kube wait --for=condition=Programmed gateway/shared-gateway --namespace "$(gateway_namespace)" --timeout 180s
}

begin "registry on 127.0.0.1:$REGISTRY_PORT"
start_registry
begin "cluster $NAME"
create_cluster
begin "nodes pull from the registry"
connect_registry
begin "Gateway API, cert-manager, metrics-server"
install_addons
if [[ $MESH != none ]]; then
  begin "$MESH"
  "install_$MESH"
  begin "rules of the mesh"
  apply --kustomize "$HERE/mesh/$MESH"
fi
begin "ingress"
install_ingress
begin "policies"
apply --kustomize "$HERE/policies"
if [[ $OBSERVABILITY == true ]]; then
  begin "observability"
  apply --kustomize "$HERE/observability"
  for namespace in monitoring kafka; do
    kube rollout status deployment,statefulset --namespace "$namespace" --timeout 300s
  done
fi

step "ready: kubectl --context kind-$NAME get pods --all-namespaces; k8s/validate.sh --service-mesh $MESH --name $NAME"

# shellcheck shell=bash disable=SC2034 # the scripts that read this file use what is set here
# What the scripts beside this file share: the versions, words to the user, and tools that speak to one cluster only.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.env
. "$HERE/versions.env"

REGISTRY_NAME=marty-registry
REGISTRY_PORT=5001
NAME=marty
MESH=none
OBSERVABILITY=true
KEEP_REGISTRY=false
# Whether the script installs charts.
NEEDS_HELM=false
# The step under way, for what is said where it fails.
CURRENT=

step() { printf '==> %s\n' "$*"; }

# fail EXIT-CODE TEXT: 1 is what went wrong, 2 a wrong call.
fail() {
  CURRENT=
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit "$1"
}

# The comment that a script begins with.
usage() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

# The value of an option that needs one.
value() {
  [[ -n ${2:-} && ${2:-} != --* ]] || fail 2 "$1 needs a value: see --help"
  printf '%s' "$2"
}

# options KNOWN... -- ARGUMENTS...: read the script's arguments, which may be the options that it knows.
options() {
  local known=" "
  while [[ $1 != -- ]]; do
    known+="$1 "
    shift
  done
  shift
  while (($#)); do
    [[ $1 == --help || $1 == -h || $known == *" $1 "* ]] || fail 2 "$1 is no option: see --help"
    case $1 in
      --service-mesh)
        MESH=$(value "$@")
        shift
        ;;
      --name)
        NAME=$(value "$@")
        shift
        ;;
      --no-observability) OBSERVABILITY=false ;;
      --keep-registry) KEEP_REGISTRY=true ;;
      --help | -h)
        usage
        exit
        ;;
    esac
    shift
  done
  check_name
  check_mesh
  need_tools
}

check_name() {
  [[ $NAME =~ ^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$ ]] ||
    fail 2 "--name $NAME: use lower-case letters, digits and hyphens, 32 at most"
}

check_mesh() {
  case $MESH in
    istio | linkerd | none) ;;
    *) fail 2 "--service-mesh $MESH: choose istio, linkerd or none" ;;
  esac
}

# need TOOL HOW: all that is missing is named at once, by `need_all`.
MISSING=()
need() { command -v "$1" >/dev/null || MISSING+=("$1 is missing: $2"); }

need_all() {
  ((${#MISSING[@]} == 0)) || fail 1 "$(printf '%s\n' "${MISSING[@]}")"
  docker info >/dev/null 2>&1 || fail 1 "no Docker engine answers: start it, or look at \`docker info\`"
}

need_tools() {
  need docker "install Docker Engine (https://docs.docker.com/engine/install)"
  need kind "go install sigs.k8s.io/kind@$KIND_VERSION (https://kind.sigs.k8s.io)"
  need kubectl "install $KUBECTL_VERSION (https://kubernetes.io/docs/tasks/tools)"
  case $MESH in
    istio) need istioctl "install $ISTIO_VERSION (https://istio.io/latest/docs/setup/install/istioctl)" ;;
    linkerd) need linkerd "install $LINKERD_VERSION (https://linkerd.io/2-edge/getting-started)" ;;
  esac
  if [[ $NEEDS_HELM == true && $MESH != istio ]]; then
    need helm "install $HELM_VERSION (https://helm.sh/docs/intro/install)"
  fi
  need_all
}

# No other cluster is touched, whatever the current context is.
kube() { kubectl --context "kind-$NAME" "$@"; }
apply() { kube apply --server-side --force-conflicts "$@"; }
mesh() {
  case $MESH in
    istio) istioctl --context "kind-$NAME" "$@" ;;
    linkerd) linkerd --context "kind-$NAME" "$@" ;;
  esac
}

# Where the shared Gateway is, and who implements it.
gateway_namespace() { if [[ $MESH == istio ]]; then echo istio-ingress; else echo ingress; fi; }
gateway_folder() { if [[ $MESH == none ]]; then echo envoy; else echo "$MESH"; fi; }

cluster_exists() { kind get clusters 2>/dev/null | grep --quiet --line-regexp --fixed-strings "$NAME"; }

# The mesh that the cluster was made with, or nothing.
mesh_of_cluster() {
  kube get configmap marty-cluster --namespace kube-system --output 'jsonpath={.data.mesh}' 2>/dev/null || true
}

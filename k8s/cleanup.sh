#!/usr/bin/env bash
# Removes the cluster that setup-cluster.sh has made, and with the last one the registry. May run again.
#
#   cleanup.sh [--name NAME] [--keep-registry]

# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"


options --name --keep-registry -- "$@"

if cluster_exists; then
  step "removing cluster $NAME"
  kind delete cluster --name "$NAME"
fi
if [[ $KEEP_REGISTRY == false && -z $(kind get clusters 2>/dev/null) ]] &&
  docker inspect "$REGISTRY_NAME" >/dev/null 2>&1; then
  step "removing the registry and what was pushed to it"
  docker rm --force --volumes "$REGISTRY_NAME" >/dev/null
fi
step "nothing is left of $NAME"

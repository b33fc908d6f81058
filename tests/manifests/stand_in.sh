#!/usr/bin/env bash
# Stands in for docker, kind, kubectl, helm, istioctl, linkerd, curl and sleep, by its name: notes the call, and behaves as the real
# one does where a script looks at what it says. STATE is a folder; FAIL a part of the calls that fail.
call="${0##*/} $*"
printf '%s\n' "$call" >>"$STATE/calls"
[[ " $* " == *" --filename - "* || $call == *" cp /dev/stdin "* ]] && cat >"$STATE/stdin"
if [[ -n ${FAIL:-} && $call == *"$FAIL"* ]]; then
  echo "told to fail" >&2
  exit 1
fi

say() { [[ -s $STATE/$1 ]] && cat "$STATE/$1"; }

after() {
  local option=$1
  shift
  while (($#)); do
    [[ $1 == "$option" ]] && printf '%s\n' "$2"
    shift
  done
}

case $call in
  "kind get clusters") say clusters || true ;;
  "kind get nodes "*) printf '%s\n' one two ;;
  "kind create cluster "*) after --name "$@" >>"$STATE/clusters" ;;
  "kind delete cluster "*) grep --invert-match --line-regexp "$(after --name "$@")" "$STATE/clusters" >"$STATE/left" ; mv "$STATE/left" "$STATE/clusters" ;;
  "docker inspect --format {{.State.Running}} "* | "docker inspect marty-registry") say registry ;;
  "docker inspect --format {{with "*) say network || true ;;
  "docker run "* | "docker start "*) echo true >"$STATE/registry" ;;
  "docker rm "*) rm "$STATE/registry" ;;
  "docker network connect "*) echo yes >"$STATE/network" ;;
  *" create configmap marty-cluster "*) after --from-literal "$@" | sed 's/mesh=//' >"$STATE/mesh" ;;
  *" get configmap marty-cluster "*) say mesh ;;
  *" get deployment linkerd-destination "*) say linkerd ;;
  "linkerd "*" install --linkerd-cni-enabled "*) echo true >"$STATE/linkerd" ;;
  "curl "*"%{http_code}"*) printf 301 ;;
  *" create --dry-run=server "*"/refused/"*)
    name=${call##*/}
    echo "denied by ValidatingAdmissionPolicy 'marty-${name%.yaml}'" >&2
    exit 1
    ;;
esac

#!/usr/bin/env bash
# Installs kind and kubectl, and istioctl, or linkerd and helm, or helm, in the versions of versions.env: each is compared
# with the checksum that its project publishes. Docker is yours to install. May run again: what is there already stays.
#
#   install-tools.sh [--service-mesh istio|linkerd|none] [--into FOLDER]
#
# FOLDER is ~/.local/bin where nothing is said; it should be on your PATH, before other versions of these tools.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.env
. "$HERE/versions.env"

GITHUB=https://github.com
MESH=none
INTO=~/.local/bin

fail() {
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit "$1"
}

options() {
  while (($#)); do
    case $1 in
      --service-mesh | --into)
        [[ -n ${2:-} && ${2:-} != --* ]] || fail 2 "$1 needs a value: see --help"
        if [[ $1 == --into ]]; then INTO=$2; else MESH=$2; fi
        shift
        ;;
      --help | -h)
        awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
        exit
        ;;
      *) fail 2 "$1 is no option: see --help" ;;
    esac
    shift
  done
  [[ $MESH =~ ^(istio|linkerd|none)$ ]] || fail 2 "--service-mesh $MESH: choose istio, linkerd or none"
}

# What the projects call this machine.
machine() {
  case $(uname -s) in
    Linux) OS=linux ISTIO_OS=linux ;;
    Darwin) OS=darwin ISTIO_OS=osx ;;
    *) fail 1 "this system is $(uname -s): the tools are for Linux and macOS" ;;
  esac
  case $(uname -m) in
    x86_64) CPU=amd64 ;;
    aarch64 | arm64) CPU=arm64 ;;
    *) fail 1 "this processor is $(uname -m): the tools are for amd64 and arm64" ;;
  esac
  LINKERD_FOR=$OS-$CPU
  # The one file that Linkerd names after the system alone.
  [[ $LINKERD_FOR != darwin-amd64 ]] || LINKERD_FOR=darwin
}

sha256() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum --algorithm 256 "$1"; fi; }

# download URL CHECKSUM-URL FILE: the file, if it is what its project has published.
download() {
  local expected actual
  curl --fail --silent --show-error --location --retry 3 --output "$3" "$1" || fail 1 "cannot download $1"
  expected=$(curl --fail --silent --show-error --location --retry 3 "$2") || fail 1 "cannot download $2"
  actual=$(sha256 "$3")
  [[ -n $expected && ${actual%% *} == "${expected%% *}" ]] || fail 1 "$1 is not what $2 says: nothing is installed"
}

# tool NAME VERSION URL CHECKSUM-URL: a program, or an archive in which it is.
tool() {
  local mark="$INTO/.$1-version"
  if [[ -x $INTO/$1 && -e $mark && $(<"$mark") == "$2" ]]; then
    printf '==> %s %s is there\n' "$1" "$2"
    return
  fi
  printf '==> %s %s\n' "$1" "$2"
  download "$3" "$4" "$SCRATCH/$1.download"
  case $3 in
    */helm-*) tar -xzf "$SCRATCH/$1.download" -C "$SCRATCH" --strip-components 1 "$OS-$CPU/$1" ;;
    *.tar.gz) tar -xzf "$SCRATCH/$1.download" -C "$SCRATCH" "$1" ;;
    *) mv "$SCRATCH/$1.download" "$SCRATCH/$1" ;;
  esac
  chmod +x "$SCRATCH/$1"
  mv "$SCRATCH/$1" "$INTO/$1"
  printf '%s\n' "$2" >"$mark"
}

options "$@"
machine
command -v curl >/dev/null || fail 1 "curl is missing: install it with your system's package manager"
mkdir -p "$INTO"
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

url=$GITHUB/kubernetes-sigs/kind/releases/download/$KIND_VERSION/kind-$OS-$CPU
tool kind "$KIND_VERSION" "$url" "$url.sha256sum"
url=https://dl.k8s.io/release/$KUBECTL_VERSION/bin/$OS/$CPU/kubectl
tool kubectl "$KUBECTL_VERSION" "$url" "$url.sha256"
# Without Istio another gateway comes from a chart.
if [[ $MESH != istio ]]; then
  url=https://get.helm.sh/helm-$HELM_VERSION-$OS-$CPU.tar.gz
  tool helm "$HELM_VERSION" "$url" "$url.sha256sum"
fi
case $MESH in
  istio)
    url=$GITHUB/istio/istio/releases/download/$ISTIO_VERSION/istioctl-$ISTIO_VERSION-$ISTIO_OS-$CPU.tar.gz
    tool istioctl "$ISTIO_VERSION" "$url" "$url.sha256"
    ;;
  linkerd)
    url=$GITHUB/linkerd/linkerd2/releases/download/$LINKERD_VERSION/linkerd2-cli-$LINKERD_VERSION-$LINKERD_FOR
    tool linkerd "$LINKERD_VERSION" "$url" "$url.sha256"
    ;;
esac
[[ :$PATH: == *":$INTO:"* ]] || printf '==> %s is not on your PATH yet\n' "$INTO"

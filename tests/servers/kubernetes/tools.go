//go:build tools

// Package tools names what tests/servers/kubernetes.py compiles, so that `go mod tidy` keeps what it needs.
//
// For another release of Kubernetes, which must be the one of k8s/versions.env (1.37.2 is v1.37.2 and v0.37.2):
//
//	go mod edit -json | jq --raw-output '.Replace[].Old.Path' | xargs -I{} go mod edit -replace={}={}@v0.37.2
//	go mod edit -require=k8s.io/kubernetes@v1.37.2
//	go mod tidy
package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
)

#!/usr/bin/env bash
# Provides .cache/bin/controlplane, the Kubernetes API that the integration
# tests start: `controlplane etcd|kube-apiserver|kube-controller-manager|kube-proxy ...`.
#
# It is built from integration-tests/controlplane (about 5 minutes on 2 cores
# the first time, seconds afterwards), or forwards to the binaries in
# KUBEBUILDER_ASSETS when a developer has those. The stage needs the
# one that is built: it has kube-proxy and a kubelet's server too.
. "$(dirname "$0")/lib.sh"

source=$root/integration-tests/controlplane
kubernetes=v1.37.2
target=$bin/controlplane
stamp=$cache/controlplane.stamp

forward_to_assets() {
  local component
  for component in etcd kube-apiserver kube-controller-manager; do
    [ -x "$KUBEBUILDER_ASSETS/$component" ] || die "KUBEBUILDER_ASSETS is set, but has no $component"
  done
  rm -f "$target" "$stamp"
  cat >"$target" <<FORWARD
#!/bin/sh
component=\$1
shift
exec "$KUBEBUILDER_ASSETS/\$component" "\$@"
FORWARD
  chmod +x "$target"
}

build() {
  local go want version=k8s.io/component-base/version
  go=$(go_command)
  want=$(fingerprint "$0" "$source"/*.go "$source"/go.* -- "$("$go" version)")
  if fresh "$stamp" "$want" "$target"; then return; fi
  say "building etcd, kube-apiserver, kube-controller-manager and kube-proxy $kubernetes (minutes, the first time)"
  # kube-apiserver serves resources by version, so it must know its own.
  (cd "$source" && CGO_ENABLED=0 "$go" build -trimpath -o "$target.new" -ldflags "-s -w \
    -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=37" .)
  mv "$target.new" "$target"
  echo "$want" >"$stamp"
}

mkdir -p "$bin"
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then forward_to_assets; else build; fi

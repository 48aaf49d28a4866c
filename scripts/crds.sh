#!/usr/bin/env bash
# Copies the CustomResourceDefinitions of Istio and of the Gateway API from
# their published Go modules to .cache/crds: istio/*.yaml and gateway-api/*.yaml.
. "$(dirname "$0")/lib.sh"

istio=istio.io/api@v1.31.1
gateway_api=sigs.k8s.io/gateway-api@v1.6.0
crds=$cache/crds

want=$(fingerprint "$0" --)
if fresh "$crds/stamp" "$want"; then exit; fi
say "fetching the CRDs of $istio and $gateway_api"
go=$(go_command)

# The folder of the module cache that holds a module.
module() { (cd / && "$go" mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

rm -rf "$crds"
mkdir -p "$crds/istio" "$crds/gateway-api"
cp "$(module "$istio")/kubernetes/customresourcedefinitions.gen.yaml" "$crds/istio/"
cp "$(module "$gateway_api")"/config/crd/standard/gateway.networking.k8s.io_*.yaml "$crds/gateway-api/"
chmod -R u+w "$crds"
echo "$want" >"$crds/stamp"

#!/usr/bin/env bash
# Copies the CustomResourceDefinitions of Istio and of the Gateway API from
# their published Go modules to .cache/crds: istio/*.yaml, gateway-api/*.yaml,
# and the latter's experimental channel in gateway-api-experimental/*.yaml.
. "$(dirname "$0")/lib.sh"

istio=istio.io/api@v1.31.1
gateway_api=sigs.k8s.io/gateway-api@v1.6.3
crds=$cache/crds

want=$(fingerprint "$0" --)
if fresh "$crds/stamp" "$want"; then exit; fi
say "fetching the CRDs of $istio and $gateway_api"
go=$(go_command)

# The folder of the module cache that holds a module.
module() { (cd / && "$go" mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

rm -rf "$crds"
mkdir -p "$crds/istio" "$crds/gateway-api" "$crds/gateway-api-experimental"
cp "$(module "$istio")/kubernetes/customresourcedefinitions.gen.yaml" "$crds/istio/"
gateway_api=$(module "$gateway_api")/config/crd
cp "$gateway_api"/standard/gateway.networking.k8s.io_*.yaml "$crds/gateway-api/"
cp "$gateway_api"/experimental/gateway.networking.*k8s.io_*.yaml "$crds/gateway-api-experimental/"
chmod -R u+w "$crds"
echo "$want" >"$crds/stamp"

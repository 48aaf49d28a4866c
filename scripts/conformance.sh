#!/usr/bin/env bash
# Builds what `make conformance` runs, from integration-tests/conformance, into
# .cache/conformance: the suite, and the servers of its pods. About two minutes
# on 2 cores the first time, seconds afterwards.
. "$(dirname "$0")/lib.sh"

source=$root/integration-tests/conformance
target=$cache/conformance
stamp=$target/stamp

mkdir -p "$target"
go=$(go_command)
want=$(fingerprint "$0" "$source"/*.go "$source"/*/*.go "$source"/go.* -- "$("$go" version)")
if fresh "$stamp" "$want" "$target/suite" "$target/echo-basic" "$target/echo-advanced"; then exit; fi
say "building the conformance suite of the Gateway API (minutes, the first time)"
cd "$source"
export CGO_ENABLED=0
"$go" build -trimpath -ldflags '-s -w' -o "$target/echo-advanced" ./echo-advanced
"$go" build -trimpath -ldflags '-s -w' -o "$target/echo-basic" sigs.k8s.io/gateway-api/conformance/echo-basic
"$go" test -c -trimpath -ldflags '-s -w' -o "$target/suite" .
echo "$want" >"$stamp"

#!/usr/bin/env bash
# Builds Fairway, starts it on a folder of YAML instead of a cluster, listening
# on loopback at istiod's ports, and says what to try. Ctrl-C ends it.
#
# usage: run.sh [FOLDER]
. "$(dirname "$0")/lib.sh"
cd "$root"

config=${1:-examples/bookinfo}
state=.cache/state
profile=release
options=(--release)
if [ "${RELEASE:-1}" = 0 ]; then
  profile=debug
  options=()
fi

scripts/tools.sh
# shellcheck disable=SC2086  # A list of flags.
cargo build ${CARGO_FLAGS:-} "${options[@]}"
fairway=${CARGO_TARGET_DIR:-target}/$profile/fairway

"$fairway" discovery \
  --configDir "$config" --stateDir "$state" \
  --grpcAddr 127.0.0.1:15010 --secureGRPCAddr 127.0.0.1:15012 \
  --httpAddr 127.0.0.1:8080 --httpsAddr 127.0.0.1:15017 --monitoringAddr 127.0.0.1:15014 &
pid=$!
stop() { kill -TERM "$pid" 2>/dev/null || true; }
trap stop INT TERM EXIT

# Whether the process answers; gives up when it ended or after 30 seconds.
ready() {
  local tries
  for ((tries = 0; tries < 150; tries++)); do
    kill -0 "$pid" 2>/dev/null || return 1
    curl --silent --fail --max-time 2 --output /dev/null http://127.0.0.1:8080/ready && return 0
    sleep 0.2
  done
  return 1
}
ready || die "Fairway is not ready; what it said is above"

ads=envoy.service.discovery.v3.AggregatedDiscoveryService
cat <<HINTS

Fairway serves $config. In another terminal, in this folder:

  the workloads and services, by server reflection
    .cache/bin/grpcurl -plaintext -d '{"node": {"id": "ztunnel~127.0.0.1~me.istio-system~istio-system.svc.cluster.local"}, "typeUrl": "type.googleapis.com/istio.workload.Address"}' \\
      127.0.0.1:15010 $ads/StreamAggregatedResources

  the policies, incrementally, with another client
    .cache/bin/buf curl --protocol grpc --http2-prior-knowledge \\
      -d '{"node": {"id": "ztunnel~127.0.0.1~me.istio-system~istio-system.svc.cluster.local"}, "typeUrl": "type.googleapis.com/istio.security.Authorization"}' \\
      http://127.0.0.1:15010/$ads/DeltaAggregatedResources

  the same over TLS, with the token of a ztunnel
    .cache/bin/grpcurl -cacert $state/root-cert.pem -H "authorization: Bearer \$($fairway token \\
      --stateDir $state --namespace istio-system --serviceAccount ztunnel)" \\
      -d '{"node": {"id": "ztunnel~127.0.0.1~me.istio-system~istio-system.svc.cluster.local"}, "typeUrl": "type.googleapis.com/istio.workload.Address"}' \\
      localhost:15012 $ads/DeltaAggregatedResources

  how it is doing
    curl http://127.0.0.1:8080/ready
    curl http://127.0.0.1:15014/metrics
    curl http://127.0.0.1:15014/debug/

  Change a file in $config and ask again. Ctrl-C ends Fairway.

HINTS

status=0
wait "$pid" || status=$?
# A signal ends the wait before the process: get the exit code of the latter.
if [ "$status" -gt 128 ]; then
  status=0
  wait "$pid" || status=$?
fi
exit "$status"

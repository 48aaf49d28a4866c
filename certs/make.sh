#!/usr/bin/env bash
# Makes key material for development and tests: a root, an intermediate that
# signs, and leaves. Nothing it makes is fit for a mesh that matters, and
# nothing it makes is committed.
#
# usage: make.sh DIR [ec|rsa] [SPIFFE-ID]
set -euo pipefail

usage="usage: make.sh DIR [ec|rsa] [SPIFFE-ID]"
out=${1:?$usage}
kind=${2:-ec}
identity=${3:-spiffe://cluster.local/ns/default/sa/default}

umask 077
mkdir -p "$out"/{root,cacerts,cert-manager,leaf}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

key() { # key FILE
    case $kind in
        ec) openssl ecparam -name prime256v1 -genkey -noout -out "$1" ;;
        rsa) openssl genrsa -out "$1" 2048 2>/dev/null ;;
        *) echo "$usage" >&2; exit 2 ;;
    esac
}

sign() { # sign SUBJECT KEY CERT DAYS EXTENSIONS [ISSUER-CERT ISSUER-KEY]
    printf '%s\n' "$5" > "$work/ext"
    openssl req -new -sha256 -key "$2" -subj "$1" -out "$work/csr"
    if [ $# -eq 7 ]; then
        issuer=(-CA "$6" -CAkey "$7")
    else
        issuer=(-signkey "$2")
    fi
    openssl x509 -req -sha256 -in "$work/csr" -days "$4" -extfile "$work/ext" \
        -set_serial "0x$(openssl rand -hex 16)" "${issuer[@]}" -out "$3" 2>/dev/null
}

ca="basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash"

key "$out/root/root-key.pem"
sign "/O=Fairway development/CN=Root" "$out/root/root-key.pem" "$out/root/root-cert.pem" 3650 "$ca"

# Istio's layout. Like Istio's own Makefile, the chain ends with the root.
key "$out/cacerts/ca-key.pem"
sign "/O=Fairway development/CN=Intermediate" "$out/cacerts/ca-key.pem" "$out/cacerts/ca-cert.pem" 730 \
    "${ca/CA:TRUE/CA:TRUE,pathlen:0}
authorityKeyIdentifier=keyid" "$out/root/root-cert.pem" "$out/root/root-key.pem"
cp "$out/root/root-cert.pem" "$out/cacerts/root-cert.pem"
cat "$out/cacerts/ca-cert.pem" "$out/root/root-cert.pem" > "$out/cacerts/cert-chain.pem"

# cert-manager's layout, with the key in the other PEM form.
cp "$out/cacerts/ca-cert.pem" "$out/cert-manager/tls.crt"
openssl pkcs8 -topk8 -nocrypt -in "$out/cacerts/ca-key.pem" -out "$out/cert-manager/tls.key"
cp "$out/root/root-cert.pem" "$out/cert-manager/ca.crt"

# A workload, and a server for this machine.
leaf="basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment"
key "$out/leaf/key.pem"
sign "/" "$out/leaf/key.pem" "$out/leaf/cert.pem" 1 "$leaf
extendedKeyUsage=clientAuth,serverAuth
subjectAltName=critical,URI:$identity" "$out/cacerts/ca-cert.pem" "$out/cacerts/ca-key.pem"
key "$out/leaf/server-key.pem"
sign "/" "$out/leaf/server-key.pem" "$out/leaf/server-cert.pem" 1 "$leaf
extendedKeyUsage=serverAuth
subjectAltName=critical,DNS:localhost,DNS:istiod.istio-system.svc,IP:127.0.0.1,IP:::1" \
    "$out/cacerts/ca-cert.pem" "$out/cacerts/ca-key.pem"
for name in cert server-cert; do
    cat "$out/leaf/$name.pem" "$out/cacerts/ca-cert.pem" > "$out/leaf/$name-chain.pem"
done

# syntax=docker/dockerfile:1
# The control plane on a slim Debian, with Debian's OpenSSL and without root.
#
#   docker build --tag registry.example.com/mesh/fairway:0.1.0 .
#
# `fairway agent` is in it, too; an image for waypoints needs an Envoy besides.
# Traces (docs/operate.md) need `--build-arg FEATURES=otel`.

FROM docker.io/library/rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential libssl-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Features of Cargo, such as otel.
ARG FEATURES=""
COPY . .
# The caches stay with the builder: the binary is copied out of them, with the
# names of functions and without line tables, which are three quarters of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package fairway --features "$FEATURES" \
 && strip --strip-debug -o /fairway target/release/fairway

# Of the same release of Debian as above, or OpenSSL is another one.
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /fairway /usr/local/bin/fairway
# By this name `istioctl bug-report` asks for debug pages.
RUN ln -s fairway /usr/local/bin/pilot-discovery
# Paths such as ./etc/cacerts are relative, as istiod's are.
WORKDIR /
# A number: Kubernetes cannot tell from a name that it is not root.
USER 65532:65532
EXPOSE 8080 15010 15012 15014
ENTRYPOINT ["/usr/local/bin/fairway"]
CMD ["discovery"]

#!/usr/bin/env bash
# Makes sure that everything is there that the tests and benchmarks need. usage: prerequisites.sh
# As root on Debian and its kin it installs what is missing; otherwise it says what that is and fails.
set -euo pipefail
cache=${SLUICE_CACHE:-$HOME/.cache/sluice}
cargo_deny=0.20.2

# What is looked for, and the package that has it.
wanted=(
  cc:build-essential
  containerd:containerd ctr:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins
  nft:nftables iptables:iptables conntrack:conntrack ip:iproute2 ethtool:ethtool socat:socat openssl:openssl
  buildah:buildah nsenter:util-linux taskset:util-linux curl:curl
  nginx:nginx haproxy:haproxy wrk:wrk
  node:nodejs python3:python3
)
missing() {
  local entry
  for entry in "${wanted[@]}"; do
    command -v "${entry%:*}" >/dev/null || echo "${entry#*:}"
  done | sort -u
}

for tool in cargo rustfmt cargo-clippy go; do
  if ! command -v "$tool" >/dev/null; then
    echo "missing: $tool (Rust 1.95 with rustfmt and clippy, Go 1.26)" >&2
    exit 1
  fi
done

mapfile -t packages < <(missing)
if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing, please install: ${packages[*]}   (or run this as root on Debian)" >&2
    exit 1
  fi
  echo "installing ${packages[*]}"
  # Nothing that is installed here may start as a service: the tests start their own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
mapfile -t packages < <(missing)
if [ ${#packages[@]} -gt 0 ]; then
  echo "still missing after installation: ${packages[*]}" >&2
  exit 1
fi

deny=$cache/cargo-deny
if [ "$("$deny/bin/cargo-deny" --version 2>/dev/null)" != "cargo-deny $cargo_deny" ]; then
  echo "building cargo-deny $cargo_deny" # for debugging: a third of the time, and it runs for a second
  CARGO_TARGET_DIR=$deny/target cargo install --quiet --locked --debug --root "$deny" "cargo-deny@$cargo_deny"
  rm -rf "$deny/target"
fi
"$(dirname "$0")/cluster/build.sh"

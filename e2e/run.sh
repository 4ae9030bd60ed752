#!/usr/bin/env bash
# The product on a real cluster: builds both, starts the cluster, runs the scenarios, stops the cluster.
# usage: run.sh [--keep] [SCENARIO...]
#   --keep      leave the cluster running afterwards; `make e2e-down` stops it
#   SCENARIO    names of scenarios, in the order of the suite; default: all; a wrong name prints the list
# The cluster's folder is ${SLUICE_E2E_STATE:-/var/tmp/sluice-e2e}; logs stay in its `log` while it runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
cache=${SLUICE_CACHE:-$HOME/.cache/sluice}
state=${SLUICE_E2E_STATE:-/var/tmp/sluice-e2e}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
keep=
if [ "${1:-}" = --keep ]; then keep=1 && shift; fi

"$here/cluster/build.sh"
cd "$root"
release=$("$here/release.sh" cluster)
cargo build --locked -p sluice-e2e --bin e2e

work=$(mktemp -d)
finish() {
  rm -rf "$work"
  [ -n "$keep" ] || "$here/cluster/down.sh" "$state"
}
trap finish EXIT
. "$here/images.sh"
image sluice docker.io/local/sluice:1 Dockerfile runtime "$release/sluice" "$release/sluice-dataplane"
image e2e docker.io/local/e2e:1 e2e/Dockerfile runtime "$release/echo" "$cache/k8s/coredns"

"$here/cluster/up.sh" "$state" "$work/sluice.tar" "$work/e2e.tar"
# Outside of the cluster's pods and nodes, as clients are.
nsenter -t "$(cat "$state/run/client")" -n "$CARGO_TARGET_DIR/debug/e2e" "$state" "$cache/k8s" "$@"

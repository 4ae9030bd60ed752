#!/usr/bin/env bash
# Builds the two programs and the cluster tests' echo backend: static, because the image holds no C library.
# Prints the folder they are in. usage: release.sh [PROFILE]
#   PROFILE   release (what is shipped; the default) or cluster (the same without link-time optimisation, for tests)
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-release}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${SLUICE_CACHE:-$HOME/.cache/sluice}/target}
target=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --profile "$profile" --target "$target" \
  -p sluice-controller -p sluice-dataplane -p sluice-e2e --bin sluice --bin sluice-dataplane --bin echo >&2
echo "$CARGO_TARGET_DIR/$target/$profile"

# `make` lists the targets. Everything that is built or fetched goes to one cache, so that a fresh clone starts warm.
SHELL := /bin/bash -euo pipefail
MAKEFLAGS += --no-print-directory
CACHE := $(or $(SLUICE_CACHE),$(HOME)/.cache/sluice)
export SLUICE_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
DENY := $(CACHE)/cargo-deny/bin/cargo-deny --locked --log-level error
CARGO_FUZZ := 0.13.2
FUZZ := $(CACHE)/cargo-fuzz/bin/cargo-fuzz
HELM := $(CACHE)/k8s/helm
RENDERED := $(CACHE)/rendered.yaml
section = @printf '\n== %s ==\n' "$(1)"

.NOTPARALLEL:
.PHONY: help run build test test-fast prerequisites lint deny unit control-plane e2e e2e-up e2e-down conformance conformance-down golden crds manifests chart fuzz bench bench-routes clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | while IFS=$$'\t' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

run: ## serve deploy/quickstart on 8080 and 8443, with echo backends, and print curl lines
	cargo run --locked -p sluice-controller --bin sluice -- run deploy/quickstart --echo

build: ## static release builds of both programs; prints where they are
	e2e/release.sh

test: prerequisites lint deny chart unit control-plane e2e conformance ## everything: installs what the tests need (as root), then runs all of them

test-fast: lint unit ## what needs neither root nor a cluster

prerequisites: ## install what the tests need, or say what is missing
	$(call section,prerequisites)
	e2e/prerequisites.sh

lint: ## formatting and clippy
	$(call section,formatting and clippy)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --quiet -- -D warnings

deny: ## licences, sources and bans of all dependencies; advisories where their database can be fetched
	$(call section,cargo-deny)
	$(DENY) check licenses bans sources
	@if $(DENY) fetch db >/dev/null 2>&1; then $(DENY) check advisories; \
	else echo "advisories: SKIPPED, their database cannot be fetched from here"; fi

unit: ## unit tests, golden cases, laws, the data plane in process
	$(call section,unit tests - golden cases - laws - data plane in process)
	cargo test --locked --workspace --quiet

control-plane: ## the controller against a real API server, and the Gateway API's types against its schemas
	$(call section,real control plane)
	SLUICE_KUBERNETES=$(CACHE)/k8s/kubernetes SLUICE_GATEWAY_API=$(CACHE)/k8s/gateway-api \
	SLUICE_GATEWAY_API_EXPERIMENTAL=$(CACHE)/k8s/gateway-api-experimental \
	  cargo test --locked -p sluice-controller -p sluice-crds --quiet -- --ignored

e2e: ## the product on a real cluster; SCENARIOS="a b" for some of them
	$(call section,real cluster)
	e2e/run.sh $(SCENARIOS)

e2e-up: ## start the cluster with Sluice installed, and leave it
	e2e/run.sh --keep helm_install_ready_within_60s

e2e-down: ## stop and remove that cluster
	e2e/cluster/down.sh "$${SLUICE_E2E_STATE:-/var/tmp/sluice-e2e}"

conformance: prerequisites ## the Gateway API's suite on a real cluster; KEEP=1 PROFILE=GATEWAY-HTTP RUN=HTTPRouteWeight CHANNEL=standard
	$(call section,conformance)
	e2e/conformance.sh $(if $(KEEP),--keep) $(PROFILE:%=-conformance-profiles=%) $(RUN:%=-run-test=%)

conformance-down: ## stop and remove the cluster that KEEP=1 left
	e2e/cluster/down.sh "$${SLUICE_E2E_STATE:-/var/tmp/sluice-conformance}"

golden: ## rewrite the expectations of the golden cases; read the diff
	GOLDEN_REWRITE=1 cargo test --locked -p sluice-translate --test golden
	git diff --stat -- controller/translate/tests/golden

crds: ## regenerate crds/yaml
	CRDS_REWRITE=1 cargo test --locked -p sluice-crds --test yaml

manifests: ## render deploy/sluice.yaml from the chart
	@{ printf '# Rendered from helm/sluice by `make manifests`. Apply with: kubectl apply --server-side -f sluice.yaml\n'; \
	  printf 'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: sluice-system\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n'; \
	  $(HELM) template sluice helm/sluice --namespace sluice-system --include-crds --kube-version 1.33.0 \
	    --api-versions gateway.networking.k8s.io/v1/GatewayClass; } >$(RENDERED)
	@mv $(RENDERED) deploy/sluice.yaml

chart: ## lint the chart, and see that deploy/sluice.yaml is what it renders
	$(call section,chart)
	$(HELM) lint --quiet --kube-version 1.33.0 helm/sluice
	@cp deploy/sluice.yaml $(CACHE)/committed.yaml
	@$(MAKE) manifests
	@cmp deploy/sluice.yaml $(CACHE)/committed.yaml || { echo "deploy/sluice.yaml was stale; it is rewritten, commit it"; exit 1; }

fuzz: ## fuzz what strangers send: T=path (or forwarded_for client_hello response resource), TIME=600 seconds
	$(call section,fuzzing $(T))
	@[ "$$($(FUZZ) --version 2>/dev/null)" = "cargo-fuzz $(CARGO_FUZZ)" ] || \
	  cargo install --quiet --locked --root $(CACHE)/cargo-fuzz cargo-fuzz@$(CARGO_FUZZ)
	cd dataplane && CARGO_TARGET_DIR=$(CACHE)/target/fuzz $(FUZZ) run --fuzz-dir fuzz --sanitizer none $(or $(T),path) -- \
	  -max_total_time=$(or $(TIME),600) -timeout=10 -max_len=4096 -print_final_stats=1

bench: ## CPU per request against nginx and HAProxy
	@command -v nginx haproxy wrk taskset >/dev/null || e2e/prerequisites.sh
	cargo build --locked -p sluice-e2e --bin bench
	$(CARGO_TARGET_DIR)/debug/bench "$$(e2e/release.sh)/sluice"

bench-routes: ## ROUTES (1000) HTTPRoutes attached to one Gateway on a real control plane; what an edit of one costs then
	SLUICE_KUBERNETES=$(CACHE)/k8s/kubernetes SLUICE_GATEWAY_API=$(CACHE)/k8s/gateway-api ROUTES=$(or $(ROUTES),1000) \
	  cargo bench --locked --profile dev -p sluice-controller --bench attach -- "$$(e2e/release.sh)/sluice"

clean: ## remove the build output
	cargo clean

# What a person runs. Nothing has to be installed by hand: what is missing is fetched or built into target/ once.

export CARGO_TERM_COLOR ?= auto
CARGO ?= cargo
DENY  := target/tools/bin/cargo-deny
DENY_VERSION := 0.20.2
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
PARTS := $(or $(FABRIK_PARTS_DIR),target/parts)
SOPS  := $(PARTS)/sops-3.13.3/sops
# For tests that call sops without a bed.
export FABRIK_SOPS ?= $(abspath $(SOPS))

STORIES_AT_ONCE ?= $(shell echo $$((1 + $$(nproc))))

.PHONY: help
help:
	@echo 'make demo    a cluster out of nothing, and what pushes make of it, played before your eyes (KEEP=1 leaves it running)'
	@echo 'make check   format, clippy, unit tests: under a minute when warm'
	@echo 'make test    everything: real git, API server, etcd and sops'
	@echo 'make rolling whole rollouts through seven nodes, and an older fabrik beside this one: half an hour'
	@echo 'make chaos   the leader killed, the agent killed, a node cut off, at each step of a rollout; two of five servers lost: a quarter of an hour'
	@echo 'make sim     100,000 simulated rollouts against all that can go wrong (SEED=n plays one and tells it)'
	@echo 'make boot    real boot loaders in QEMU go back from systems that fail; so does an installed disk: some minutes'
	@echo 'make power-cuts  the same loaders, with the power cut at each write'
	@echo 'make bench   the numbers of docs/performance.md'

.PHONY: demo
demo:
	@if [ ! -x "$(BUILT)/fabrik" ] || [ ! -x "$(PARTS)/kubernetes-1.36.3/kube-apiserver" ]; then \
		echo 'The first time: about 20 minutes on two cores, to build fabrik and what the demo'; \
		echo 'runs on. Then it plays, in about five minutes. From the second time on it only plays.'; \
	fi
	$(CARGO) build --workspace
	@$(BUILT)/bed parts
	@$(BUILT)/bed demo $(if $(KEEP),--keep)

.PHONY: check
check: components $(FABRIK_SOPS)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --lib --bins -- -D warnings
	$(CARGO) test --workspace --lib --bins

.PHONY: test
test: packages components $(FABRIK_SOPS) $(DENY) format lint
	$(CARGO) test --workspace --no-run
	$(BUILT)/bed parts
	@$(MAKE) --no-print-directory --jobs=4 --keep-going tutorial stories others deny nix

# Stories wait much, for a machine to boot or a Lease to end, so with the others they fill the gaps. More of them at once take
# longer: each has an API server that is never idle. The longest one begins with the first, or it would end alone. No page has
# an example to test.
ELSEWHERE := rolling::long:: rolling::trouble:: chaos::long:: servers::long::
.PHONY: tutorial stories others
tutorial:
	$(CARGO) test --workspace --test e2e -- tutorial::

stories:
	$(CARGO) test --workspace --test e2e -- --test-threads=$(STORIES_AT_ONCE) \
		$(addprefix --skip ,$(ELSEWHERE) tutorial::)

others:
	$(CARGO) test --workspace --exclude fabrik-e2e --lib --bins --tests --no-fail-fast

# Packages, kernels and a k3s minor through seven nodes, good ones and such as panic, hang or are sick.
.PHONY: rolling
rolling: packages $(FABRIK_SOPS)
	$(CARGO) test --workspace --no-run
	$(BUILT)/bed parts
	$(CARGO) test --workspace --test e2e -- rolling::

# Plays rollouts until each of three faults was put in at each step of a node's way, and prints how often each was. Beside them
# two of five servers are lost.
.PHONY: chaos
chaos: packages $(FABRIK_SOPS)
	$(CARGO) test --workspace --no-run
	$(BUILT)/bed parts
	$(CARGO) test --workspace --test e2e -- chaos:: servers::long:: --nocapture

# A quarter of an hour on two quiet cores: docs/simulation.md, "Numbers".
.PHONY: sim
sim:
ifdef SEED
	$(CARGO) run -q -p fabrik-sim --profile sim -- seed $(SEED)
else
	$(CARGO) run -p fabrik-sim --profile sim -- run
	$(CARGO) run -q -p fabrik-sim --profile sim -- exhaustive
	$(CARGO) run -q -p fabrik-sim --profile sim -- mutants
endif

# They are tests of their own, because they take minutes and change rarely.
.PHONY: boot
boot: packages
	$(CARGO) test -p fabrik-boot --test boot --test image

# The disk as a power cut may leave it, between any two writes of a try: eleven minutes.
.PHONY: power-cuts
power-cuts:
	$(CARGO) test -p fabrik-boot --test power_cuts

.PHONY: bench
bench:
	$(CARGO) bench -p fabrik-core
	$(CARGO) build --release -p fabrik
	$(CARGO) build --workspace
	$(BUILT)/bed parts
	FABRIK_BIN=$(abspath $(BUILT))/../release/fabrik $(BUILT)/bed bench
	FABRIK_BIN=$(abspath $(BUILT))/../release/fabrik $(BUILT)/bed rollout

.PHONY: format lint deny nix packages components
format:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Advisories need their database from the network: see .ci/deny.
deny: $(DENY)
	.ci/deny $(DENY)

$(DENY):
	@echo 'building cargo-deny $(DENY_VERSION), once: some minutes'
	env -u CARGO_TARGET_DIR $(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --debug --root target/tools

nix:
	tests/nix/check.sh

# Debian's packages that the tests use; as another user, or elsewhere, they only have to be there.
packages:
	@.ci/packages

# rustup's minimal profile leaves them out.
components:
	@$(CARGO) fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@$(CARGO) clippy --version >/dev/null 2>&1 || rustup component add clippy

# As the bed builds it, which builds the other parts as well.
$(abspath $(SOPS)):
	@echo 'building sops, once: about a minute'
	cd tests/bed/parts/$(notdir $(@D)) && GOFLAGS= GOTOOLCHAIN=local CGO_ENABLED=0 \
		go build -mod=readonly -buildvcs=false -trimpath -ldflags='-s -w' -o $@ github.com/getsops/sops/v3/cmd/sops

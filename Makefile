# Two targets need nothing but Go and root on Debian 12: `make demo` shows the
# whole product on loopback, `make test` proves it. Both install the system
# packages that they miss (scripts/packages.sh).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# Go is often installed where no login shell looks.
export PATH := $(PATH):/usr/local/go/bin

# SQLite is C, and its full-text search is chosen when it is compiled. The go
# command writes version and revision from git into the binary; it shall also in
# a checkout that belongs to another user than the one who builds.
export CGO_ENABLED := 1
export GOFLAGS := -tags=sqlite_fts5
export GIT_CONFIG_COUNT := 1
export GIT_CONFIG_KEY_0 := safe.directory
export GIT_CONFIG_VALUE_0 := *

FUZZTIME ?= 60s
# Longest a single package's tests may take; the race detector and two cores are slow.
TESTTIME ?= 15m
# Packages to test; narrow it while working: make test PKG=./authz/...
PKG      ?= ./...

# Kills of a loaded gate in make faults.
RUNS     ?= 1000

.PHONY: build demo test oracle bench check faults fmt fuzz

build:
	scripts/packages.sh build
	go build -trimpath -o bin/sallyport ./cmd/sallyport

# The tour plays the story and stops at the first step that is not as told; the
# second command stays until it is interrupted.
demo:
	scripts/packages.sh demo
	$(MAKE) --no-print-directory build
	bin/sallyport demo --tour
	bin/sallyport demo

test:
	scripts/packages.sh test
	$(MAKE) --no-print-directory check
	$(MAKE) --no-print-directory oracle
	go test -race -timeout $(TESTTIME) $(PKG)

# Others' programs judge what the recorder writes; a module of its own, because
# they bring what the product does not want.
oracle:
	recorder/tlog/oracle/run

# The rule that imports point downwards is an ordinary test in internal/layering.
check:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then \
		echo "gofmt is needed for:" $$unformatted "- run 'make fmt'." >&2; exit 1; \
	fi
	go vet ./...
	go tool staticcheck ./...

fmt:
	gofmt -w .

bench:
	scripts/packages.sh bench
	$(MAKE) --no-print-directory build
	go run ./scripts/bench -gate bin/sallyport
	SALLYPORT_FULL=1 go test -count=1 -timeout $(TESTTIME) -v -run ConstantMemory -bench Seek ./replay

# Kills a loaded gate at random points, and lets each system call of its storage fail once.
faults:
	scripts/packages.sh build
	$(MAKE) --no-print-directory build
	go run ./scripts/faults -gate bin/sallyport -runs $(RUNS)

# Runs every fuzz target for FUZZTIME, one after the other.
fuzz:
	scripts/packages.sh build
	scripts/fuzz.sh $(FUZZTIME)

# make test       everything, on every rung; as root it installs what it needs (Debian)
# make test-fast  no cgo, no root, under a minute
# make lint       gofmt, vet, staticcheck, govulncheck
# make bench      benchmarks; as root the labs' too
# make docs       docs/capabilities.md from what a full test run saw

GO ?= go

.PHONY: test test-fast lint bench docs deps

test: deps
	@GO="$(GO)" bash internal/lab/test.sh

deps:
	@GO="$(GO)" bash internal/lab/deps.sh

test-fast:
	CGO_ENABLED=0 $(GO) test ./hypervisor/... ./vsphere/... ./hyperv/... ./xen/... ./kvm/... ./examples/... ./internal/captable -short

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	GOOS=windows CGO_ENABLED=0 $(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./... || { \
		if $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 -version >/dev/null 2>&1; then \
			echo "govulncheck: findings above, or its database can't be reached from here"; else \
			echo "govulncheck: SKIPPED, the tool can't be fetched from here"; fi; }

bench: deps
	@GO="$(GO)" bash internal/lab/bench.sh

docs:
	ANYVISOR_RESULTS="$(CURDIR)/docs/results" $(MAKE) test
	$(GO) run ./internal/captable -results docs/results -out docs/capabilities.md

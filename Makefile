# make test       everything, on every rung; as root it installs what it needs (Debian)
# make test-fast  no cgo, no root, under a minute
# make acceptance  a minute of storm for each driver: 64 goroutines, contexts that
#                 end at random, connections that break (10 s in make test)
# make mutants    drivers that ignore a field or leave one empty, on the fake, the
#                 simulators and, as root, KVM's lab: the suite must notice each
# make fuzz       each fuzz target for FUZZTIME, a minute by default
# make lint       gofmt, vet, builds for more platforms, staticcheck, govulncheck
# make bench      benchmarks; as root the labs' too
# make release-check  what a release needs beside the tests: API changes since the
#                 last tag, tidy modules, local replace lines, licences in NOTICE
# make site       the pages in docs as a static site in the folder site, with checked
#                 links; needs Node.js 20
# make docs       docs/capabilities.md from what a full test run saw

GO ?= go

FUZZTIME ?= 1m

.PHONY: test test-fast acceptance mutants fuzz lint bench docs deps release-check site

test: deps
	@GO="$(GO)" bash internal/lab/test.sh

deps:
	@GO="$(GO)" bash internal/lab/deps.sh

test-fast:
	CGO_ENABLED=0 $(GO) test ./hypervisor/... ./vsphere/... ./hyperv/... ./xen/... ./kvm/... ./examples/... ./internal/captable -short
	CGO_ENABLED=0 $(GO) test -C internal/interop ./...
	CGO_ENABLED=0 $(GO) test -C hypervisor/fleet ./...

acceptance: deps
	ANYVISOR_STORM=60s $(GO) test -race -v -timeout 20m -run 'TestStorm$$' ./hypervisor/fake ./vsphere ./hyperv ./xen

mutants: deps
	$(GO) test ./hypervisor/fake -run 'TestFieldMutants$$'
	$(GO) test -tags mutants -timeout 60m -parallel 4 -run 'TestFieldMutants$$' ./vsphere ./xen ./hyperv
	@if [ "$$(id -u)" -eq 0 ]; then $(GO) test -tags mutants -timeout 240m -parallel 1 -run 'TestFieldMutants$$' ./kvm; else echo "KVM: SKIPPED, its lab needs root"; fi

fuzz:
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" bash internal/fuzz.sh

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	GOOS=windows CGO_ENABLED=0 $(GO) vet ./...
	@for t in linux/arm64 windows/arm64 darwin/amd64; do CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build ./... || exit 1; done
	$(GO) vet -C internal/interop -tags release ./...
	$(GO) vet -C hypervisor/fleet ./...
	$(GO) vet -C hypervisor/fleet/dbosfleet ./...
	@for d in hypervisor/fleet hypervisor/fleet/dbosfleet; do (cd $$d && $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...) || exit 1; done
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./... || { \
		if $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 -version >/dev/null 2>&1; then \
			echo "govulncheck: findings above, or its database can't be reached from here"; else \
			echo "govulncheck: SKIPPED, the tool can't be fetched from here"; fi; }

bench: deps
	@GO="$(GO)" bash internal/lab/bench.sh

site:
	@bash internal/site.sh

release-check:
	@GO="$(GO)" bash internal/release-check.sh

docs:
	ANYVISOR_RESULTS="$(CURDIR)/docs/results" $(MAKE) test
	$(GO) run ./internal/captable -results docs/results -out docs/capabilities.md

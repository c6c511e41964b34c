module github.com/anyvisor/anyvisor/hypervisor/fleet

go 1.26.0

require (
	github.com/anyvisor/anyvisor v0.0.0
	go.uber.org/goleak v1.3.0
)

replace github.com/anyvisor/anyvisor => ../..

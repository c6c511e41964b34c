//go:build cgo

package kvm

// notYet are the areas of the suite that TestConformance leaves to other tests.
var notYet = map[string]string{
	"contexts": "TestContexts runs it, through relays",
	"faults":   "TestFaults runs it, through proxies",
}

package ipaddr

import (
	"net/netip"
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	got := Parse("192.0.2.7", " 2001:db8::1 ", "", "not an address", "192.0.2.7", "fe80::1%eth0", "10.0.0.1/8")
	want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1%eth0")}
	if !slices.Equal(got, want) {
		t.Errorf("Parse: %v, want %v", got, want)
	}
}

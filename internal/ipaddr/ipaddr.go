// Package ipaddr reads the addresses that platforms report for their guests.
package ipaddr

import (
	"net/netip"
	"slices"
	"strings"
)

// Parse returns the texts that are IP addresses, each once, in their order.
// Guests may report any text, so others are left out.
func Parse(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		if a, err := netip.ParseAddr(strings.TrimSpace(t)); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

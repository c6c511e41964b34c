package hypervisor_test

import (
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestURLWithSecret: a password with a character that was not escaped makes
// a URL that can't be parsed; the error shows none of it.
func TestURLWithSecret(t *testing.T) {
	for _, u := range []string{"fake://u:S3c/ret@h/", "fake://u:S3c?ret@h/", "fake://u:S3c#ret@h/", "fake://u:S3c%ret@h/", "fake://u:S3c ret@h/", "fake://u:S3c\x7fret@h/", "://u:S3cret@h", "fake://[u:S3cret@h/"} {
		_, err := hypervisor.Open(t.Context(), u, nil)
		if hypervisor.KindOf(err) != hypervisor.ErrInvalidArgument || strings.Contains(err.Error(), "S3c") || strings.Contains(err.Error(), "ret") || !strings.Contains(err.Error(), "%40") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

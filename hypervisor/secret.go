package hypervisor

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a password, a token or a key in a configuration or a request. It
// prints as *** with every verb of package fmt, in logs, and as text and
// JSON. An empty one prints as nothing. string(s) is the secret itself.
// Fields of type Secret must be exported, because package fmt prints fields
// that are not exported without calling their methods.
type Secret string

// String shows no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString shows no secret.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// Format shows no secret, whatever the verb is.
func (s Secret) Format(f fmt.State, verb rune) {
	shown := s.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		shown = s.GoString()
	}
	_, _ = io.WriteString(f, shown)
}

// LogValue shows no secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText shows no secret, so a value that was written this way can't be
// read back.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON shows no secret; see MarshalText.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

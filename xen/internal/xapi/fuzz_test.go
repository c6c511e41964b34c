package xapi

import (
	"errors"
	"testing"
)

// record has fields of the kinds that answers have.
type record struct {
	UUID   string            `json:"uuid"`
	Refs   []Ref             `json:"VBDs"`
	Other  map[string]string `json:"other_config"`
	On     bool              `json:"is_a_template"`
	At     Time              `json:"snapshot_time"`
	Number Float             `json:"progress"`
}

func FuzzJSONAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		var text *string
		var list map[Ref]record
		for _, result := range []any{nil, &text, &list, new(Events), new(record)} {
			err := jsonAnswer(data, result)
			var e *Error
			if errors.As(err, &e) && e.Error() == "" {
				t.Errorf("%q: an error without a text", data)
			}
		}
	})
}

func FuzzXMLAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, method := range []string{"VM.get_all_records", "event.from", "session.login_with_password", "Async.VM.start", "nothing"} {
			var text string
			var list map[Ref]record
			for _, result := range []any{nil, &text, &list, new(Events)} {
				_ = xmlAnswer(method, data, result)
			}
		}
	})
}

// FuzzMaster: an address that a member names stays one.
func FuzzMaster(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		c := &Client{members: []string{"10.0.0.1", "h2.example"}}
		if !c.trusts(s) {
			return
		}
		if name := hostOf(s); name != "10.0.0.1" && name != "h2.example" && name != "H2.EXAMPLE" && len(name) != len("h2.example") {
			t.Errorf("%q is trusted as %q", s, name)
		}
	})
}

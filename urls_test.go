package anyvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// printed is what programs print of a value.
func printed(v any) string {
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Error("x", "v", v)
	slog.New(slog.NewTextHandler(&log, nil)).Error("x", "v", v)
	j, _ := json.Marshal(v)
	return fmt.Sprintf("%v %+v %#v %s %q", v, v, v, v, v) + log.String() + string(j)
}

// TestURLsShowNoSecret: whatever is wrong with a URL, and whoever reads it, the
// error does not hold its secrets; nor do errors below it.
func TestURLsShowNoSecret(t *testing.T) {
	const at = "127.0.0.1:1" // where nobody listens
	for _, scheme := range []string{"vsphere", "hyperv", "xapi", "xenserver", "xen", "xen+tcp", "xen+tls", "kvm", "kvm+tcp", "kvm+tls", "kvm+ssh", "qemu+tcp", "none", "Vsphere", "vs phere", ""} {
		for _, u := range []string{
			"u:WORD@" + at, "u:a/WORD@" + at, "u:a?WORD@" + at, "u:a#WORD@" + at, "u:WORD%@" + at, "u:%zzWORD@" + at, "u:a WORD@" + at, "u:a\nWORD@" + at, "u:a\x7fWORD@" + at, "u:a[WORD@" + at,
			"u:a]WORD@" + at, "u:WORD@[" + at, "u:a@WORD@" + at, "u:a:WORD@" + at, `u:a\WORD@` + at, "u:a<WORD>@" + at, "u:WORD@" + at + ":x", "u:WORD@:99999999", "u:WORD@", ":WORD@" + at, "u:1234/WORD@" + at, "u:1/a?WORD@" + at, "u:WORD@" + at + "/%zz",
			at + "/?password=WORD", at + "/?user=a&password=WORD", at + "/?WORD", at + "/?WORD=1", at + "/?insecure=WORD", at + "/?plainhttp=WORD", at + "/?thumbprint=WORD", at + "/?token=WORD", at + "/?a=%zzWORD", at + "/?a;b=WORD",
			at + "/?keepalive=WORD", at + "/?maxanswer=WORD", at + "/#WORD", at + "/?insecure=1&insecure=WORD", "u:WORD@" + at + "/?what=1",
		} {
			for _, text := range []string{scheme + "://" + u, scheme + ":" + u, scheme + ":/" + u} {
				text = strings.ReplaceAll(text, "WORD", word)
				ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
				c, err := hypervisor.Open(ctx, text, nil)
				stop()
				if err == nil {
					t.Errorf("%q was opened", text)
					c.Close()
					continue
				}
				for e := err; e != nil; e = errors.Unwrap(e) {
					if said := printed(e); strings.Contains(said, word) {
						t.Errorf("%q: %s", text, said)
						break
					}
				}
			}
		}
	}
}

package hypervisor_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// printed is a value in every way in which programs print.
func printed(v any) string {
	var b bytes.Buffer
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%08.3v", "%-20s|"} {
		fmt.Fprintf(&b, f+"\n", v)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("x", "alone", v, "inside", struct{ Of any }{v}, slog.Group("g", "v", v))
	}
	_ = json.NewEncoder(&b).Encode(map[string]any{"v": v})
	_ = xml.NewEncoder(&b).Encode(v)
	return b.String()
}

func TestSecret(t *testing.T) {
	const word = "s3cret-word"
	type config struct {
		User     string
		Password hypervisor.Secret
		Of       map[string]hypervisor.Secret
	}
	c := config{"ann", word, map[string]hypervisor.Secret{"x": word}}
	for _, v := range []any{
		hypervisor.Secret(word), new(hypervisor.Secret), c, &c, []config{c}, hypervisor.Credentials{Username: "ann", Password: word},
		hypervisor.Options{Credentials: &hypervisor.Credentials{Password: word}}, hypervisor.ExecRequest{Path: "/x", User: "ann", Password: word},
	} {
		s := printed(v)
		for _, shown := range []string{word, fmt.Sprintf("%x", word), fmt.Sprintf("%X", word)} {
			if strings.Contains(s, shown) {
				t.Errorf("the secret shows in %s", s)
			}
		}
	}
	for in, want := range map[hypervisor.Secret]string{"": `  ""|{"S":""}`, word: `*** *** "***"|{"S":"***"}`} {
		j, err := json.Marshal(struct{ S hypervisor.Secret }{in})
		if got := fmt.Sprintf("%v %s %#v|%s", in, in, in, j); got != want || err != nil {
			t.Errorf("it prints as %s, want %s", got, want)
		}
	}
	var read config
	if err := json.Unmarshal([]byte(`{"Password":"`+word+`"}`), &read); err != nil || read.Password != word {
		t.Errorf("a secret in a file is not read: %v", err)
	}
}

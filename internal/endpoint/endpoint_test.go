package endpoint

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

type colour string

func TestRead(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	var (
		text, file string
		flag       bool
		wait       time.Duration
		n          int
		c          colour
	)
	p := Params{"text": Text(&text), "flag": Bool(&flag), "wait": Duration(&wait), "count": Count(&n), "colour": OneOf(&c, "red", "green"), "file": File(&file)}
	read := func(query string) error { return p.Read(&url.URL{RawQuery: query}) }
	if err := read("text=a%26b&flag=1&wait=2m&count=3&colour=green&file=" + url.QueryEscape(secret)); err != nil ||
		text != "a&b" || !flag || wait != 2*time.Minute || n != 3 || c != "green" || file != "content" {
		t.Errorf("%v: %q %v %v %d %q %q", err, text, flag, wait, n, c, file)
	}
	for query, want := range map[string]string{
		"hue=s3cret":             `unknown URL parameter "hue": the driver knows colour, count, file, flag, text, wait`,
		"text=s3cret&text=b":     "parameter text is given 2 times",
		"text=":                  "parameter text: the value is empty",
		"flag=s3cret":            "parameter flag: the value must be true or false",
		"wait=s3cret":            "parameter wait: the value must be a duration",
		"count=s3cret":           "parameter count: the value must be a whole number",
		"count=0":                "parameter count: the value must be a whole number",
		"colour=s3cret":          "parameter colour: the value must be one of [red green]",
		"file=s3cret":            "parameter file: the file can't be read",
		"text=s3cret%zz":         "can't be parsed",
		"text=a;password=s3cret": "can't be parsed",
	} {
		err := read(query)
		if !errors.Is(err, hypervisor.ErrInvalidArgument) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
}

func TestUserInfo(t *testing.T) {
	t.Setenv(PasswordVariable, "from the environment")
	for in, want := range map[string][2]string{
		"x://ann:pw@h":                  {"ann", "pw"},
		"x://ann:@h":                    {"ann", ""},
		"x://ann@h":                     {"ann", "from the environment"},
		"x://h":                         {"", "from the environment"},
		`x://CORP%5Cann:p%40w@h`:        {`CORP\ann`, "p@w"},
		"x://ann%40corp.example@vc:443": {"ann@corp.example", "from the environment"},
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if name, password := UserInfo(u); name != want[0] || string(password) != want[1] {
			t.Errorf("%s: %q, %q, want %q", in, name, password, want)
		}
	}
}

func TestTrustRefused(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.pem")
	if err := os.WriteFile(none, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Trust{
		{CA: none}, {CA: none + "x"}, {Thumbprint: "AA"}, {Thumbprint: strings.Repeat("zz", 32)}, {Thumbprint: strings.Repeat("00", 32) + ","},
		{CA: none, Insecure: true}, {Thumbprint: strings.Repeat("00", 32), Insecure: true}, {CA: none, Thumbprint: strings.Repeat("00", 32)},
	} {
		if _, err := c.TLS(nil); !errors.Is(err, hypervisor.ErrInvalidArgument) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := KeyPair("a.pem", ""); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("a certificate without a key: %v", err)
	}
}

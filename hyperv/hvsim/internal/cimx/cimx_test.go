package cimx

import (
	"errors"
	"strings"
	"testing"
	"testing/quick"
	"time"
	"unicode/utf8"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

func class(t testing.TB, name string) *schema.Class {
	c := schema.Lookup("root/virtualization/v2", schema.Newest).Class(name)
	if c == nil {
		t.Fatalf("no class %s", name)
	}
	return c
}

// plain reports whether XML can carry a text unchanged: without control characters, and without a carriage return, which XML turns into a line feed.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 && r != '\n' && r != '\t' || r == 0xfffe || r == 0xffff || r == 0xfffd
	})
}

func TestTextRoundTrip(t *testing.T) {
	c := class(t, "Msvm_VirtualSystemSettingData")
	if err := quick.Check(func(id, name string, n uint64, b bool, u uint16, texts []string) bool {
		if !plain(id) || !plain(name) {
			return true
		}
		i := New(c, "HV01")
		i.Set("InstanceID", id).Set("ElementName", name).Set("LowMmioGapSize", n).Set("SecureBootEnabled", b).Set("AutomaticShutdownAction", u)
		var notes []any
		for _, s := range texts {
			if plain(s) {
				notes = append(notes, s)
			}
		}
		if notes != nil {
			i.Set("Notes", notes)
		}
		got, err := Parse(schema.Lookup("root/virtualization/v2", schema.Newest), "HV01", Format(i))
		if err != nil {
			t.Error(err)
			return false
		}
		return Format(got) == Format(i) && got.Str("ElementName") == name && len(got.Strings("Notes")) == len(notes)
	}, nil); err != nil {
		t.Error(err)
	}
}

func TestPathRoundTrip(t *testing.T) {
	if err := quick.Check(func(a, b string) bool {
		want := Ref{Host: "HV01", Namespace: "root/virtualization/v2", Class: "Msvm_X", Keys: []KeyValue{{"A", a}, {"B", b}}}
		for _, p := range []string{want.Path(), want.RelPath()} {
			got, err := ParsePath(p)
			if err != nil || got.Class != want.Class || got.Key() != want.Key() {
				t.Errorf("%s became %+v, %v", p, got, err)
				return false
			}
		}
		got, _ := ParsePath(want.Path())
		return got.Host == "HV01" && got.Namespace == want.Namespace
	}, nil); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", ".", `X.A="`, `X.A`, `\\HV01`, `X.A="b"c`} {
		if r, err := ParsePath(bad); err == nil {
			t.Errorf("%q: %+v", bad, r)
		}
	}
}

func TestRefused(t *testing.T) {
	ns := schema.Lookup("root/virtualization/v2", schema.Newest)
	for in, want := range map[string]error{
		"": ErrSyntax, "<X/>": ErrSyntax, `<INSTANCE CLASSNAME="Msvm_Error"`: ErrSyntax, `<INSTANCE CLASSNAME="Nope"/>`: ErrClass,
		`<INSTANCE CLASSNAME="Msvm_Error"><PROPERTY NAME="Nope" TYPE="string"/></INSTANCE>`:                                          ErrProperty,
		`<INSTANCE CLASSNAME="Msvm_Error"><PROPERTY NAME="Message" TYPE="uint16"><VALUE>1</VALUE></PROPERTY></INSTANCE>`:             ErrType,
		`<INSTANCE CLASSNAME="Msvm_Error"><PROPERTY.ARRAY NAME="Message" TYPE="string"/></INSTANCE>`:                                 ErrType,
		`<INSTANCE CLASSNAME="Msvm_Error"><PROPERTY NAME="ErrorType" TYPE="uint16"><VALUE>65536</VALUE></PROPERTY></INSTANCE>`:       ErrType,
		`<INSTANCE CLASSNAME="Msvm_Error"><PROPERTY NAME="ErrorType" TYPE="uint16"><VALUE>many</VALUE></PROPERTY></INSTANCE>`:        ErrType,
		`<INSTANCE CLASSNAME="Msvm_ConcreteJob"><PROPERTY NAME="StartTime" TYPE="datetime"><VALUE>now</VALUE></PROPERTY></INSTANCE>`: ErrType,
	} {
		if _, err := Parse(ns, "", in); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", in, err, want)
		}
	}
}

func TestTimes(t *testing.T) {
	if s := Interval(5 * time.Minute); s != "00000000000500.000000:000" || !ValidDatetime(s) {
		t.Error(s)
	}
	if s := Interval(26*time.Hour + 1500*time.Microsecond); s != "00000001020000.001500:000" {
		t.Error(s)
	}
	if s := Datetime(time.Date(2026, 11, 23, 14, 5, 6, 7000, time.FixedZone("x", 3600))); s != "20261123130506.000007+000" || !ValidDatetime(s) {
		t.Error(s)
	}
}

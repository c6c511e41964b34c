package cimx

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
	"pgregory.net/rapid"
)

func class(t testing.TB, name string) *schema.Class {
	c := schema.Lookup("root/virtualization/v2").Class(name)
	if c == nil {
		t.Fatalf("no class %s", name)
	}
	return c
}

// text draws strings that XML can carry unchanged: no control characters, and no carriage return, which XML turns into a line feed.
var text = rapid.String().Filter(func(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 && r != '\n' && r != '\t' || r == 0xfffe || r == 0xffff || r == 0xfffd
	})
})

func TestTextRoundTrip(t *testing.T) {
	c := class(t, "Msvm_VirtualSystemSettingData")
	rapid.Check(t, func(r *rapid.T) {
		i := New(c, "HV01")
		i.Set("InstanceID", text.Draw(r, "id")).Set("ElementName", text.Draw(r, "name")).Set("LowMmioGapSize", rapid.Uint64().Draw(r, "n")).
			Set("SecureBootEnabled", rapid.Bool().Draw(r, "b")).Set("AutomaticShutdownAction", rapid.Uint16().Draw(r, "u"))
		var notes []any
		for _, s := range rapid.SliceOf(text).Draw(r, "notes") {
			notes = append(notes, s)
		}
		if notes != nil {
			i.Set("Notes", notes)
		}
		got, err := Parse(schema.Lookup("root/virtualization/v2"), "HV01", Format(i))
		if err != nil {
			r.Fatal(err)
		}
		if Format(got) != Format(i) || got.Str("ElementName") != i.Str("ElementName") || len(got.Strings("Notes")) != len(notes) {
			r.Fatalf("%s became %s", Format(i), Format(got))
		}
	})
}

func TestPathRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := Ref{Host: "HV01", Namespace: "root/virtualization/v2", Class: "Msvm_X", Keys: []KeyValue{{"A", text.Draw(r, "a")}, {"B", text.Draw(r, "b")}}}
		for _, p := range []string{want.Path(), want.RelPath()} {
			got, err := ParsePath(p)
			if err != nil || got.Class != want.Class || got.Key() != want.Key() {
				r.Fatalf("%s became %+v, %v", p, got, err)
			}
		}
		if got, _ := ParsePath(want.Path()); got.Host != "HV01" || got.Namespace != want.Namespace {
			r.Fatalf("%+v", got)
		}
	})
	for _, bad := range []string{"", ".", `X.A="`, `X.A`, `\\HV01`, `X.A="b"c`} {
		if r, err := ParsePath(bad); err == nil {
			t.Errorf("%q: %+v", bad, r)
		}
	}
}

func TestRefused(t *testing.T) {
	ns := schema.Lookup("root/virtualization/v2")
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

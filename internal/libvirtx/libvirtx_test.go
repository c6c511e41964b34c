package libvirtx

import (
	"maps"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMark(t *testing.T) {
	const foreign = `<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>a &amp; b</nova:name></nova:instance>`
	m := Mark{Token: "t-1", Created: "2026-01-02T03:04:05Z", Images: []string{"/a", "/b"}, Template: &MarkTemplate{MemoryKiB: 5, CurrentKiB: 4}}
	labels := map[string]string{"q": `' " <&> ]]> %2f`, "e": "", "u": "☃ 日本", "s": "  blanks\t\r\n "}
	m.SetLabels(labels)
	inner, err := PutMark(foreign, m)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(inner, foreign) {
		t.Errorf("what others keep was changed: %s", inner)
	}
	got, err := ReadMark(inner)
	if err != nil || got.Token != m.Token || !maps.Equal(got.LabelMap(), labels) || len(got.Images) != 2 || got.Template == nil || *got.Template != *m.Template || got.CreatedAt().Year() != 2026 {
		t.Errorf("read back %+v (%v), want %+v", got, err, m)
	}
	// Again and again: one mark, and the rest untouched.
	for range 3 {
		if inner, err = PutMark(inner, Mark{Token: "t-2"}); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(inner, Namespace) != 1 || !strings.Contains(inner, foreign) {
		t.Errorf("after replacing: %s", inner)
	}
	// As libvirt writes it back, with a prefix.
	got, err = ReadMark(`<anyvisor:machine xmlns:anyvisor="` + Namespace + `"><anyvisor:token>x</anyvisor:token><anyvisor:label key="k">v</anyvisor:label></anyvisor:machine>`)
	if err != nil || got.Token != "x" || got.LabelMap()["k"] != "v" {
		t.Errorf("with a prefix: %+v (%v)", got, err)
	}
	if got, err = ReadMark(""); err != nil || got.Token != "" || got.LabelMap() != nil {
		t.Errorf("of nothing: %+v (%v)", got, err)
	}
	if _, err = ReadMark("<broken>"); err == nil {
		t.Error("broken metadata is read without an error")
	}
}

func TestUUIDs(t *testing.T) {
	if a, b := TokenUUID("a"), TokenUUID("b"); a == b || a != TokenUUID("a") || a[14] != '5' {
		t.Errorf("TokenUUID gives %s and %s", a, b)
	}
	if a, b := NewUUID(), NewUUID(); a == b || len(a) != 36 || a[14] != '4' {
		t.Errorf("NewUUID gives %s and %s", a, b)
	}
	if a := NewMAC("52:54:00"); len(a) != 17 || !strings.HasPrefix(a, "52:54:00:") {
		t.Errorf("NewMAC gives %s", a)
	}
}

func TestEach(t *testing.T) {
	seen := make([]bool, 100)
	if err := Each(len(seen), func(i int) error { seen[i] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	for i, s := range seen {
		if !s {
			t.Errorf("%d was left out", i)
		}
	}
}

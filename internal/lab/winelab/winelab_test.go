package winelab

import (
	"bytes"
	"context"
	"debug/pe"
	"testing"
	"time"

	"github.com/anyvisor/anyvisor/internal/lab"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestForwarder(t *testing.T) {
	f, err := pe.NewFile(bytes.NewReader(forwarder("a.dll", "F", "B.G")))
	if err != nil {
		t.Fatal(err)
	}
	s := f.Section(".edata")
	if s == nil || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 {
		t.Fatalf("%+v", f.FileHeader)
	}
	d, err := s.Data()
	if err != nil || !bytes.Contains(d, []byte("a.dll\x00F\x00B.G\x00")) {
		t.Fatalf("%v %q", err, d)
	}
}

func TestGoProgramUnderWine(t *testing.T) {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute)
	defer stop()
	l, err := Start(ctx)
	if err != nil {
		lab.Skip(t, err)
	}
	defer func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	}()
	r, err := l.Test(ctx, ".", "-test.run", "^TestForwarder$", "-test.v")
	if err != nil || r.Code != 0 || !bytes.Contains([]byte(r.Output), []byte("PASS")) {
		t.Fatalf("%v: exit code %d: %s", err, r.Code, r.Output)
	}
	if r, err = l.Test(ctx, ".", "-test.run", "^TestForwarder$", "-no.such.flag"); err != nil || r.Code == 0 {
		t.Fatalf("%v: exit code %d: %s", err, r.Code, r.Output)
	}
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestUpToDate: the table in the repository is what the generator writes.
func TestUpToDate(t *testing.T) {
	p := filepath.Join(t.TempDir(), "classes.txt")
	if err := generate(p); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("..", "classes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("classes.txt is not up to date: run go generate ./hyperv/hvsim/internal/schema")
	}
}

package imagefile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	. "github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

// liar is a source without content.
type liar struct {
	size    int64
	extents []Extent
}

func (l liar) Size() int64                           { return l.size }
func (l liar) ReadAt(p []byte, _ int64) (int, error) { return 0, io.EOF }
func (l liar) Extents() iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for _, x := range l.extents {
			if !yield(x, nil) {
				return
			}
		}
	}
}

func pack(t testing.TB, c Compression, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Compress(&b, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(r io.Reader, c Compression, limit int64) ([]byte, error) {
	d, err := Decompress(r, c, limit)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(d)
}

func TestCompress(t *testing.T) {
	content := append(noise(300<<10, 3), make([]byte, 1<<20)...)
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	for _, c := range []Compression{Uncompressed, Gzip, XZ, Zstd} {
		t.Run(c.String(), func(t *testing.T) {
			p := pack(t, c, content)
			if got := DetectCompression(p[:6]); got != c {
				t.Errorf("detected as %v", got)
			}
			v, err := Verify(bytes.NewReader(p), fmt.Sprintf("sha256:%x", sha256.Sum256(p)))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := unpack(v, c, int64(len(content))); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if _, err = Verify(bytes.NewReader(p), sum+"00"); !errors.Is(err, ErrUnsupported) {
				t.Errorf("a sum that is too long: %v", err)
			}
			if c != Uncompressed {
				v, _ = Verify(bytes.NewReader(p), sum)
				if _, err := unpack(v, c, 0); !errors.Is(err, ErrChecksum) {
					t.Errorf("a wrong sum: %v", err)
				}
				if _, err := unpack(bytes.NewReader(p[:len(p)-9]), c, 0); !errors.Is(err, ErrTruncated) {
					t.Errorf("truncated: %v", err)
				}
				if _, err := unpack(bytes.NewReader(nil), c, 0); !errors.Is(err, ErrTruncated) && c != Zstd {
					t.Errorf("nothing: %v", err)
				}
				q := bytes.Clone(p)
				q[len(q)/2] ^= 0x10
				if _, err := unpack(bytes.NewReader(q), c, 0); !errors.Is(err, ErrCorrupt) {
					t.Errorf("corrupt: %v", err)
				}
			}
			if got, err := unpack(bytes.NewReader(append(bytes.Clone(p), p...)), c, 0); c == XZ && !errors.Is(err, ErrUnsupported) || c != XZ && (err != nil || len(got) != 2*len(content)) {
				t.Errorf("two files in one: %d bytes, %v", len(got), err)
			}
			if got, err := unpack(bytes.NewReader(p), c, int64(len(content)-1)); !errors.Is(err, ErrTooLarge) || len(got) != len(content)-1 {
				t.Errorf("a bomb: %d bytes, %v", len(got), err)
			}
			broken := errors.New("the network is gone")
			if _, err := unpack(io.MultiReader(bytes.NewReader(p[:1000]), failing{broken}), c, 0); !errors.Is(err, broken) {
				t.Errorf("a reader that fails: %v", err)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestCompressTools: the usual programs read what is written, and the reverse.
func TestCompressTools(t *testing.T) {
	content := append(noise(200<<10, 9), make([]byte, 300<<10)...)
	for _, x := range []struct {
		tool string
		c    Compression
		args []string
	}{
		{"gzip", Gzip, []string{"-c"}}, {"xz", XZ, []string{"-c2"}}, {"xz", XZ, []string{"-c1", "-T2", "--block-size=70000"}},
		{"xz", XZ, []string{"-c0", "--check=none"}}, {"xz", XZ, []string{"-c", "--check=sha256"}}, {"zstd", Zstd, []string{"-c"}},
	} {
		tool, err := exec.LookPath(x.tool)
		if err != nil {
			t.Logf("%s is missing: only what this package writes was read", x.tool)
			continue
		}
		in := filepath.Join(t.TempDir(), "content")
		if err := os.WriteFile(in, content, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := exec.CommandContext(t.Context(), tool, append(x.args, in)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unpack(bytes.NewReader(p), x.c, 0); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s %v: %d bytes, %v", x.tool, x.args, len(got), err)
		}
		cmd := exec.CommandContext(t.Context(), tool, "-dc")
		cmd.Stdin = bytes.NewReader(pack(t, x.c, content))
		if got, err := cmd.Output(); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s -d: %d bytes, %v", x.tool, len(got), err)
		}
	}
	if tool, err := exec.LookPath("xz"); err == nil {
		for _, args := range [][]string{{"-c", "--lzma2=dict=256MiB"}, {"-c", "--x86", "--lzma2"}} {
			cmd := exec.CommandContext(t.Context(), tool, args...)
			cmd.Stdin = bytes.NewReader(content[:1000])
			p, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := unpack(bytes.NewReader(p), XZ, 0); !errors.Is(err, ErrUnsupported) {
				t.Errorf("xz %v: %v", args, err)
			}
		}
	}
}

// TestStreamCompressed: a compressed image is imported with its checksum, in one pass.
func TestStreamCompressed(t *testing.T) {
	m := disks()["odd"]
	for _, f := range []Format{Raw, VMDK} {
		p := pack(t, Zstd, imageOf(t, m, f, nil))
		v, err := Verify(bytes.NewReader(p), fmt.Sprintf("%x", sha256.Sum256(p)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := Decompress(v, Zstd, 0)
		if err != nil {
			t.Fatal(err)
		}
		align := int64(1)
		if f == VMDK {
			align = 512
		}
		sameStream(t, r, f, m, align)

		v, _ = Verify(bytes.NewReader(p), fmt.Sprintf("%x", sha256.Sum256(nil)))
		r, err = Decompress(v, Zstd, 0)
		if err != nil {
			t.Fatal(err)
		}
		s, err := OpenStream(r, f, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, err = range s.Chunks() {
		}
		if !errors.Is(err, ErrChecksum) {
			t.Errorf("%v with a wrong sum: %v", f, err)
		}
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m := &memory{size: 64 << 20, parts: []part{{0, noise(32<<20, 1)}}}
	for _, f := range []Format{Raw, QCOW2, VMDK, VHD, VHDX} {
		ctx, cancel := context.WithCancel(ctx)
		err := Write(ctx, io.Discard, m, f, &WriteOptions{Progress: func(int64, int64) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v: %v", f, err)
		}
	}
	cancel()
}

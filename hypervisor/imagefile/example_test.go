package imagefile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/anyvisor/anyvisor/hypervisor/imagefile"
)

// aDisk returns a qcow2 image of 64 MiB with 64 KiB of data, as an example.
func aDisk() *bytes.Reader {
	var b bytes.Buffer
	m := &memory{size: 64 << 20, parts: []part{{1 << 20, bytes.Repeat([]byte("data"), 16<<10)}}}
	if err := imagefile.Write(context.Background(), &b, m, imagefile.QCOW2, nil); err != nil {
		log.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// A qcow2 image becomes a VHDX. Zeros are neither read nor written.
func Example() {
	image := aDisk()
	disk, err := imagefile.Open(image, image.Size(), imagefile.QCOW2, &imagefile.OpenOptions{Name: "web.qcow2", MaxSize: 1 << 40})
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()
	fmt.Println(disk.Size()>>20, "MiB")
	for x, err := range disk.Extents() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%+v\n", x)
	}

	var out bytes.Buffer // or a file
	if err := imagefile.Write(context.Background(), &out, disk, imagefile.VHDX, nil); err != nil {
		log.Fatal(err)
	}
	fmt.Println("VHDX of", out.Len()>>20, "MiB")
	// Output:
	// 64 MiB
	// {Offset:0 Length:1048576 Zero:true}
	// {Offset:1048576 Length:65536 Zero:false}
	// {Offset:1114112 Length:65994752 Zero:true}
	// VHDX of 6 MiB
}

// A raw image becomes a sparse file, although its source is a stream.
func ExampleOpenStream() {
	download := io.LimitReader(zeroReader{}, 10<<20)
	s, err := imagefile.OpenStream(download, imagefile.Raw, nil)
	if err != nil {
		log.Fatal(err)
	}
	f, err := os.Create(filepath.Join(os.TempDir(), "anyvisor-example.img"))
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	written := 0
	for c, err := range s.Chunks() {
		if err != nil {
			log.Fatal(err)
		}
		n, err := f.WriteAt(c.Data, c.Offset)
		if err != nil {
			log.Fatal(err)
		}
		written += n
	}
	if err := f.Truncate(s.Size()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Size()>>20, "MiB,", written, "bytes written")
	// Output: 10 MiB, 0 bytes written
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A compressed download is unpacked up to a limit, and its checksum is verified
// at the end.
func ExampleVerify() {
	var file bytes.Buffer
	w, err := imagefile.Compress(&file, imagefile.Zstd)
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(w, "the bytes of a disk")
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256(file.Bytes())) // from the vendor

	checked, err := imagefile.Verify(&file, sum)
	if err != nil {
		log.Fatal(err)
	}
	r, err := imagefile.Decompress(checked, imagefile.Zstd, 1<<30)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	p, err := io.ReadAll(r)
	fmt.Printf("%s, %v\n", p, err)
	// Output: the bytes of a disk, <nil>
}

// An image that needs another file is refused, and the error says what helps.
func ExampleError() {
	image := make([]byte, 1<<20)
	copy(image, "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x00")
	_, err := imagefile.Open(bytes.NewReader(image), 1<<20, imagefile.QCOW2, &imagefile.OpenOptions{Name: "child.qcow2"})
	fmt.Println(errors.Is(err, imagefile.ErrExternal))
	var e *imagefile.Error
	if errors.As(err, &e) {
		fmt.Println(e.Name, e.Offset, e.Detail)
	}
	// Output:
	// true
	// child.qcow2 8 it names a backing file, which is never followed
}

// A machine with one disk is exported, and imported again.
func ExampleWriteOVA() {
	image := aDisk()
	disk, err := imagefile.Open(image, image.Size(), imagefile.QCOW2, nil)
	if err != nil {
		log.Fatal(err)
	}
	var out bytes.Buffer
	err = imagefile.WriteOVA(context.Background(), &out, imagefile.OVASpec{
		Name: "web-01", CPUs: 2, MemoryBytes: 4 << 30, Disks: []imagefile.Source{disk}, Networks: []string{"VM Network"},
	})
	if err != nil {
		log.Fatal(err)
	}

	archive, err := imagefile.OpenOVA(bytes.NewReader(out.Bytes()), int64(out.Len()), nil)
	if err != nil {
		log.Fatal(err)
	}
	for i, d := range archive.Disks() {
		again, err := archive.OpenDisk(i)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d.File, again.Size()>>20, "MiB")
	}
	// Output: web-01-disk1.vmdk 64 MiB
}

// Zeros in a source that doesn't know its extents are found by reading it.
func ExampleScan() {
	content := append(make([]byte, 1<<20), "the end"...)
	disk, err := imagefile.Open(bytes.NewReader(content), int64(len(content)), imagefile.Raw, nil)
	if err != nil {
		log.Fatal(err)
	}
	for x := range imagefile.Scan(disk).Extents() {
		fmt.Printf("%+v\n", x)
	}
	// Output:
	// {Offset:0 Length:1048576 Zero:true}
	// {Offset:1048576 Length:7 Zero:false}
}

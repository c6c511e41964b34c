package imagefile

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

// OVASpec is the machine that an OVA describes.
type OVASpec struct {
	Name        string // the machine's name, and the files'; "" means "machine"
	CPUs        int    // 0 means 1
	MemoryBytes int64  // 0 means 1 GiB; rounded up to whole MiB
	EFI         bool   // the firmware is UEFI, not BIOS
	Disks       []Source
	// Networks has the name of the network of each adapter.
	Networks []string
	// OSType is VMware's name of the guest system, such as "debian12_64Guest";
	// "" means "otherLinux64Guest".
	OSType string
	// Progress is as in WriteOptions, over two passes of all disks.
	Progress func(done, size int64)
}

// WriteOVA writes an archive with an OVF descriptor, a manifest of SHA-256 sums
// and a streamOptimized VMDK for each disk to w, in one pass. A tar archive
// needs each file's length first, so each disk is read and compressed twice: to
// measure it, and to write it. A disk that changes meanwhile is an error with
// [ErrSource].
func WriteOVA(ctx context.Context, w io.Writer, s OVASpec) error {
	refuse := func(detail string, args ...any) error {
		return &Error{Format: OVA, Offset: -1, Kind: ErrUnsupported, Detail: fmt.Sprintf(detail, args...)}
	}
	if s.Name == "" {
		s.Name = "machine"
	}
	s.CPUs = max(s.CPUs, 1)
	if s.MemoryBytes <= 0 {
		s.MemoryBytes = 1 << 30
	}
	if s.OSType == "" {
		s.OSType = "otherLinux64Guest"
	}
	if len(s.Disks) > 15 {
		return refuse("%d disks are more than the 15 of a controller", len(s.Disks))
	}
	base := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, s.Name)
	base = base[:min(len(base), 60)]
	var total, done int64
	for i, d := range s.Disks {
		if d.Size() <= 0 || d.Size() > DefaultMaxSize {
			return refuse("disk %d can't have %d bytes", i, d.Size())
		}
		total += 2 * d.Size()
	}
	disks := make([]ovaFile, len(s.Disks))
	for i, d := range s.Disks {
		var id [4]byte
		rand.Read(id[:])
		disks[i] = ovaFile{name: fmt.Sprintf("%s-disk%d.vmdk", base, i+1), src: d, id: binary.LittleEndian.Uint32(id[:])%0xfffffffd + 1}
	}
	one := func(d ovaFile, w io.Writer) (n int64, sum [32]byte, err error) {
		h := sha256.New()
		out := &output{ctx: ctx, w: io.MultiWriter(h, w), src: d.src, size: d.src.Size()}
		if s.Progress != nil {
			out.progress = func(n, _ int64) { s.Progress(done+n, total) }
		}
		err = out.vmdk(d.id)
		done += d.src.Size()
		return out.n, [32]byte(h.Sum(nil)), err
	}
	for i := range disks {
		var err error
		if disks[i].size, disks[i].sum, err = one(disks[i], io.Discard); err != nil {
			return err
		}
	}
	tw := tar.NewWriter(w)
	ovf := ovfText(s, disks)
	sums := fmt.Sprintf("SHA256(%s.ovf)= %x\n", base, sha256.Sum256(ovf))
	for _, d := range disks {
		sums += fmt.Sprintf("SHA256(%s)= %x\n", d.name, d.sum)
	}
	head := func(name string, size int64) error {
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
	}
	for _, x := range []struct {
		name string
		text []byte
	}{{base + ".ovf", ovf}, {base + ".mf", []byte(sums)}} {
		if err := head(x.name, int64(len(x.text))); err != nil {
			return err
		}
		if _, err := tw.Write(x.text); err != nil {
			return err
		}
	}
	for i, d := range disks {
		if err := head(d.name, d.size); err != nil {
			return err
		}
		n, sum, err := one(d, tw)
		if err == tar.ErrWriteTooLong || err == nil && (n != d.size || sum != d.sum) {
			return &Error{Format: OVA, Offset: -1, Kind: ErrSource, Detail: fmt.Sprintf("disk %d changed while it was read", i), Remedy: "write a snapshot of it"}
		}
		if err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if s.Progress != nil {
		s.Progress(total, total)
	}
	return nil
}

// ovaFile is a disk to be written.
type ovaFile struct {
	name string
	src  Source
	id   uint32
	size int64
	sum  [32]byte
}

// ovfText returns the descriptor.
func ovfText(s OVASpec, disks []ovaFile) []byte {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	esc := func(s string) string {
		var e strings.Builder
		xml.EscapeText(&e, []byte(s))
		return e.String()
	}
	p(`<?xml version="1.0" encoding="UTF-8"?>`)
	p(`<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">`)
	p(`  <References>`)
	for i, d := range disks {
		p(`    <File ovf:id="file%d" ovf:href="%s" ovf:size="%d"/>`, i+1, d.name, d.size)
	}
	p(`  </References>`)
	p(`  <DiskSection>`)
	p(`    <Info>The disks</Info>`)
	for i, d := range disks {
		p(`    <Disk ovf:diskId="vmdisk%d" ovf:fileRef="file%d" ovf:capacity="%d" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>`, i+1, i+1, roundUp(d.src.Size(), 512))
	}
	p(`  </DiskSection>`)
	if len(s.Networks) > 0 {
		p(`  <NetworkSection>`)
		p(`    <Info>The networks</Info>`)
		seen := map[string]bool{}
		for _, n := range s.Networks {
			if !seen[n] {
				p(`    <Network ovf:name="%s"><Description>%s</Description></Network>`, esc(n), esc(n))
			}
			seen[n] = true
		}
		p(`  </NetworkSection>`)
	}
	p(`  <VirtualSystem ovf:id="%s">`, esc(s.Name))
	p(`    <Info>A virtual machine</Info>`)
	p(`    <Name>%s</Name>`, esc(s.Name))
	p(`    <OperatingSystemSection ovf:id="101" vmw:osType="%s"><Info>The guest system</Info></OperatingSystemSection>`, esc(s.OSType))
	p(`    <VirtualHardwareSection>`)
	p(`      <Info>The hardware</Info>`)
	p(`      <System><vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemIdentifier>%s</vssd:VirtualSystemIdentifier><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>`, esc(s.Name))
	id := 0
	item := func(fields ...string) {
		// The schema asks for the fields in alphabetical order.
		id++
		p(`      <Item>`)
		for i := 0; i < len(fields); i += 2 {
			value := esc(fields[i+1])
			if fields[i] == "InstanceID" {
				value = fmt.Sprint(id)
			}
			p(`        <rasd:%s>%s</rasd:%s>`, fields[i], value, fields[i])
		}
		p(`      </Item>`)
	}
	item("AllocationUnits", "hertz * 10^6", "ElementName", "CPUs", "InstanceID", "", "ResourceType", "3", "VirtualQuantity", fmt.Sprint(s.CPUs))
	item("AllocationUnits", "byte * 2^20", "ElementName", "Memory", "InstanceID", "", "ResourceType", "4", "VirtualQuantity", fmt.Sprint((s.MemoryBytes+1<<20-1)>>20))
	if len(disks) > 0 {
		item("Address", "0", "ElementName", "SCSI controller", "InstanceID", "", "ResourceSubType", "lsilogic", "ResourceType", "6")
		controller := fmt.Sprint(id)
		for i := range disks {
			unit := i
			if unit >= 7 { // the controller's own address
				unit++
			}
			item("AddressOnParent", fmt.Sprint(unit), "ElementName", fmt.Sprintf("Disk %d", i+1), "HostResource", fmt.Sprintf("ovf:/disk/vmdisk%d", i+1), "InstanceID", "", "Parent", controller, "ResourceType", "17")
		}
	}
	for i, n := range s.Networks {
		item("AddressOnParent", fmt.Sprint(7+i), "AutomaticAllocation", "true", "Connection", n, "ElementName", fmt.Sprintf("Adapter %d", i+1), "InstanceID", "", "ResourceSubType", "VmxNet3", "ResourceType", "10")
	}
	if s.EFI {
		p(`      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>`)
	}
	p(`    </VirtualHardwareSection>`)
	p(`  </VirtualSystem>`)
	p(`</Envelope>`)
	return []byte(b.String())
}

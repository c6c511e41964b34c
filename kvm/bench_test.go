//go:build cgo

package kvm

import (
	"context"
	"fmt"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// defined is how many machines the listings below list.
const defined = 1000

// BenchmarkList lists 1,000 defined machines on a real libvirtd, against
// hand-written programs.
func BenchmarkList(b *testing.B) {
	l := theLab(b)
	ctx := context.Background()
	h := l.Hosts[0]
	native, err := libvirt.NewConnect(h.URI)
	if err != nil {
		b.Fatal(err)
	}
	defer native.Close()
	for i := range defined {
		doc, err := (&libvirtxml.Domain{Type: "qemu", Name: fmt.Sprintf("bench-%04d", i), Memory: &libvirtxml.DomainMemory{Value: 64, Unit: "MiB"},
			VCPU: &libvirtxml.DomainVCPU{Value: 2}, OS: &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Type: "hvm", Machine: "q35"}}}).Marshal()
		if err != nil {
			b.Fatal(err)
		}
		dom, err := native.DomainDefineXML(doc)
		if err != nil {
			b.Fatal(err)
		}
		defer dom.Undefine()
	}
	c, err := Open(ctx, Config{Hosts: []string{h.URI}, DomainType: "qemu"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()

	list := func(d hypervisor.Detail) func() int {
		return func() int {
			all, err := hypervisor.Collect(c.VMs(ctx, &hypervisor.ListOptions{Detail: d}))
			if err != nil {
				b.Fatal(err)
			}
			return len(all)
		}
	}
	stats := func(what libvirt.DomainStatsTypes) []libvirt.DomainStats {
		all, err := native.GetAllDomainStats(nil, what, 0)
		if err != nil {
			b.Fatal(err)
		}
		return all
	}
	const brief = libvirt.DOMAIN_STATS_STATE | libvirt.DOMAIN_STATS_VCPU | libvirt.DOMAIN_STATS_BALLOON
	byHand := func() int {
		n := 0
		for _, s := range stats(brief) {
			name, err1 := s.Domain.GetName()
			id, err2 := s.Domain.GetUUIDString()
			if err1 == nil && err2 == nil && name != "" && id != "" {
				n++
			}
			s.Domain.Free()
		}
		return n
	}
	byHandFull := func() int {
		n := 0
		for _, s := range stats(brief | libvirt.DOMAIN_STATS_BLOCK) {
			var x libvirtxml.Domain
			if doc, err := s.Domain.GetXMLDesc(0); err == nil && x.Unmarshal(doc) == nil {
				n++
			}
			s.Domain.Free()
		}
		return n
	}
	// One call for each question, as programs do that grew.
	naive := func() int {
		ids, err := native.ListAllDomains(0)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for i := range ids {
			d := &ids[i]
			var x libvirtxml.Domain
			_, _, err1 := d.GetState()
			_, err2 := d.GetInfo()
			_, err3 := d.GetMaxMemory()
			_, err4 := d.HasManagedSaveImage(0)
			_, err5 := d.SnapshotNum(0)
			_, err6 := d.GetAutostart()
			doc, err7 := d.GetXMLDesc(0)
			if err1 == nil && err2 == nil && err3 == nil && err4 == nil && err5 == nil && err6 == nil && err7 == nil && x.Unmarshal(doc) == nil {
				n++
			}
			d.Free()
		}
		return n
	}
	// Interleaved, so that both sides see the same load on the machine.
	compare := func(name string, ours, theirs func() int) {
		b.Run(name, func(b *testing.B) {
			var a, z time.Duration
			for b.Loop() {
				t := time.Now()
				n := ours()
				a += time.Since(t)
				t = time.Now()
				m := theirs()
				z += time.Since(t)
				if n < defined || m < n {
					b.Fatalf("listed %d here, %d by hand; defined are %d", n, m, defined)
				}
			}
			b.ReportMetric(float64(a.Milliseconds())/float64(b.N), "ms/driver")
			b.ReportMetric(float64(z.Milliseconds())/float64(b.N), "ms/other")
			b.ReportMetric(a.Seconds()/z.Seconds(), "ratio")
		})
	}
	compare("BriefAgainstHandWritten", list(hypervisor.DetailBrief), byHand)
	compare("FullAgainstHandWritten", list(hypervisor.DetailFull), byHandFull)
	compare("BriefAgainstOneCallPerQuestion", list(hypervisor.DetailBrief), naive)
	compare("FullAgainstOneCallPerQuestion", list(hypervisor.DetailFull), naive)
}

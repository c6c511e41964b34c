//go:build cgo

package fleet

import (
	"context"
	"testing"

	"libvirt.org/go/libvirt"

	"github.com/anyvisor/anyvisor/internal/libvirtx"
)

// TestNoteIsWritten: a mark that was begun is written when Note returns, though
// the maker has been stopped. A mark that came later would make a reservation
// of the finished machine.
func TestNoteIsWritten(t *testing.T) {
	conn, err := libvirtx.NewConn("test:///default", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	id, err := libvirtx.Do(t.Context(), conn, 2, func(c *libvirt.Connect) (string, error) {
		dom, err := c.LookupDomainByName("test")
		if err != nil {
			return "", err
		}
		defer dom.Free()
		return dom.GetUUIDString()
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &Making{host: &Host{Conn: conn}, uuid: id, turn: make(chan struct{}, 1), mark: libvirtx.Mark{Role: roleMaking}}
	ctx, stop := context.WithCancel(t.Context())
	err = m.Note(ctx, func(k *libvirtx.Mark) {
		k.Beat = "7"
		stop()
	})
	if err != nil {
		t.Errorf("Note: %v", err)
	}
	mark, err := libvirtx.Do(t.Context(), conn, 2, func(c *libvirt.Connect) (libvirtx.Mark, error) {
		dom, err := c.LookupDomainByUUIDString(id)
		if err != nil {
			return libvirtx.Mark{}, err
		}
		defer dom.Free()
		_, mark, err := libvirtx.Parse(dom, 0)
		return mark, err
	})
	if err != nil || mark.Role != roleMaking || mark.Beat != "7" {
		t.Errorf("the mark is %+v, %v", mark, err)
	}
}

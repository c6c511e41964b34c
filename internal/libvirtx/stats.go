//go:build cgo

package libvirtx

/*
#cgo pkg-config: libvirt
#include <stdlib.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

typedef struct {
	int code, domain;
	char *message;
} statsError;

static int failed(statsError *e) {
	virErrorPtr last = virGetLastError();
	if (last) {
		e->code = last->code;
		e->domain = last->domain;
		e->message = last->message;
	}
	return -1;
}

// One call, so that the error is read in the thread that it was raised in.
static int domainStats(virConnectPtr c, const char *uuid, unsigned int stats, virDomainStatsRecordPtr **out, statsError *e) {
	int n;
	if (uuid) {
		virDomainPtr doms[2] = {virDomainLookupByUUIDString(c, uuid), NULL};
		if (!doms[0])
			return failed(e);
		n = virDomainListGetStats(doms, stats, out, 0);
		if (n < 0)
			failed(e);
		virDomainFree(doms[0]);
		return n;
	}
	n = virConnectGetAllDomainStats(c, stats, out, 0);
	return n < 0 ? failed(e) : n;
}

static void identity(virDomainPtr d, char *uuid, const char **name) {
	virDomainGetUUIDString(d, uuid);
	*name = virDomainGetName(d);
}
*/
import "C"

import (
	"bytes"
	"strconv"
	"strings"
	"unsafe"

	"libvirt.org/go/libvirt"
)

// Stat is the report on one domain from a bulk request. The binding's own
// GetAllDomainStats leaves out vcpu.current, the number of CPUs that a domain
// that is off will have.
type Stat struct {
	UUID, Name    string
	State, Reason int
	CPUs, MaxCPUs int
	// KiB is the memory that the guest has, or gets at start. MaxKiB is the
	// limit.
	KiB, MaxKiB uint64
	Disks       map[string]DiskStat // by target: "vda"
}

// DiskStat is the size of a disk's image.
type DiskStat struct {
	Path                 string
	Capacity, Allocation int64
}

// Stats reads all domains in a single request, or the one with a UUID in two.
func Stats(c *libvirt.Connect, uuid string, disks bool) ([]Stat, error) {
	what := C.uint(C.VIR_DOMAIN_STATS_STATE | C.VIR_DOMAIN_STATS_VCPU | C.VIR_DOMAIN_STATS_BALLOON)
	if disks {
		what |= C.VIR_DOMAIN_STATS_BLOCK
	}
	p, err := c.RawPtr()
	if err != nil {
		return nil, err
	}
	defer libvirt.CloseRawPtr(p)
	cp := C.virConnectPtr(unsafe.Pointer(p))
	var id *C.char
	if uuid != "" {
		id = C.CString(uuid)
		defer C.free(unsafe.Pointer(id))
	}
	var list *C.virDomainStatsRecordPtr
	var e C.statsError
	n := C.domainStats(cp, id, what, &list, &e)
	if n < 0 {
		return nil, libvirt.Error{Code: libvirt.ErrorNumber(e.code), Domain: libvirt.ErrorDomain(e.domain), Message: C.GoString(e.message), Level: libvirt.ERR_ERROR}
	}
	defer C.virDomainStatsRecordListFree(list)
	out := make([]Stat, n)
	var b [C.VIR_UUID_STRING_BUFLEN]C.char
	for i, r := range unsafe.Slice(list, n) {
		var name *C.char
		C.identity(r.dom, &b[0], &name)
		out[i] = Stat{UUID: C.GoString(&b[0]), Name: C.GoString(name)}
		if r.nparams > 0 {
			out[i].read(unsafe.Slice(r.params, r.nparams))
		}
	}
	return out, nil
}

func (s *Stat) read(params []C.virTypedParameter) {
	type block struct {
		name string
		stat DiskStat
	}
	var blocks map[string]*block
	for i := range params {
		p := &params[i]
		field := unsafe.Slice((*byte)(unsafe.Pointer(&p.field[0])), len(p.field))
		field = field[:max(bytes.IndexByte(field, 0), 0)]
		// Go compiles a switch on string(field) without making a string.
		switch string(field) {
		case "state.state":
			s.State = number(p)
		case "state.reason":
			s.Reason = number(p)
		case "vcpu.current":
			s.CPUs = number(p)
		case "vcpu.maximum":
			s.MaxCPUs = number(p)
		case "balloon.current":
			s.KiB = uint64(number(p))
		case "balloon.maximum":
			s.MaxKiB = uint64(number(p))
		default:
			if !bytes.HasPrefix(field, []byte("block.")) {
				continue
			}
			no, what, ok := strings.Cut(string(field[len("block."):]), ".")
			if _, err := strconv.Atoi(no); err != nil || !ok {
				continue
			}
			if blocks == nil {
				blocks = map[string]*block{}
			}
			b := blocks[no]
			if b == nil {
				b = &block{}
				blocks[no] = b
			}
			switch what {
			case "name":
				b.name = text(p)
			case "path":
				b.stat.Path = text(p)
			case "capacity":
				b.stat.Capacity = int64(number(p))
			case "allocation":
				b.stat.Allocation = int64(number(p))
			}
		}
	}
	if len(blocks) > 0 {
		s.Disks = make(map[string]DiskStat, len(blocks))
		for _, b := range blocks {
			s.Disks[b.name] = b.stat
		}
	}
}

func number(p *C.virTypedParameter) int {
	v := unsafe.Pointer(&p.value[0])
	switch p._type {
	case C.VIR_TYPED_PARAM_INT:
		return int(*(*C.int)(v))
	case C.VIR_TYPED_PARAM_UINT:
		return int(*(*C.uint)(v))
	case C.VIR_TYPED_PARAM_LLONG, C.VIR_TYPED_PARAM_ULLONG:
		return int(*(*C.longlong)(v))
	}
	return 0
}

func text(p *C.virTypedParameter) string {
	if p._type != C.VIR_TYPED_PARAM_STRING {
		return ""
	}
	return C.GoString(*(**C.char)(unsafe.Pointer(&p.value[0])))
}

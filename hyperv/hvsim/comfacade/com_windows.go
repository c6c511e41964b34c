package comfacade

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/anyvisor/anyvisor/hyperv/hvsim"
	ole "github.com/go-ole/go-ole"
	"golang.org/x/sys/windows"
)

// HRESULTs and flags of Automation [D: IDispatch::Invoke].
const (
	sOK             = 0
	sFalse          = 1
	eNoInterface    = 0x80004002
	eNotImpl        = 0x80004001
	ePointer        = 0x80004003
	dispUnknownName = 0x80020006
	dispException   = 0x80020009
	noAggregation   = 0x80040110

	invokeMethod = 1
	invokeGet    = 2
	invokePut    = 4

	dispidValue   = 0
	dispidNewEnum = -4
)

// automation is the behaviour of an object.
type automation interface {
	// has reports whether the object has a name.
	has(name string) bool
	// invoke calls or reads a name, or with invokePut in flags writes it; the empty name is the default member.
	invoke(name string, flags int, args []any) (any, error)
	// interfaces are the dual interfaces that the object supports, beside IDispatch.
	interfaces() []*ole.GUID
}

// object is the memory that COM callers hold; its first word is the table of functions.
type object struct {
	vtbl *[7]uintptr
	refs int32
	impl automation
	enum *enumerator
	make func() automation // class factory
}

type enumerator struct {
	items []any
	pos   int
}

// dispParams is DISPPARAMS, with typed pointers.
type dispParams struct {
	args  *ole.VARIANT
	_     *int32 // names of arguments
	nArgs uint32
	_     uint32
}

// excepInfo is EXCEPINFO.
type excepInfo struct {
	_, _         uint16
	source, text *uint16
	_            *uint16 // help file
	_            uint32
	_, _         uintptr
	scode        uint32
}

var (
	ole32             = windows.NewLazySystemDLL("ole32.dll")
	procRegisterClass = ole32.NewProc("CoRegisterClassObject")
	procRevokeClass   = ole32.NewProc("CoRevokeClassObject")
	clsidLocator      = ole.NewGUID("{76A64158-CB41-11D1-8B02-00600806D9B6}")
	iidFactory        = ole.NewGUID("{00000001-0000-0000-C000-000000000046}")
	tables            func() *vtables
	mu                sync.Mutex
	live              = map[*object]bool{} // keeps objects from the garbage collector while COM holds them
	dispids           = map[string]int32{}
	names             = []string{""}
)

type vtables struct{ dispatch, enum, factory [7]uintptr }

func init() { tables = sync.OnceValue(makeTables) }

func makeTables() *vtables {
	qi, add, rel := syscall.NewCallback(queryInterface), syscall.NewCallback(addRef), syscall.NewCallback(release)
	return &vtables{
		dispatch: [7]uintptr{qi, add, rel, syscall.NewCallback(typeInfoCount), syscall.NewCallback(typeInfo), syscall.NewCallback(idsOfNames), syscall.NewCallback(invoke)},
		enum:     [7]uintptr{qi, add, rel, syscall.NewCallback(enumNext), syscall.NewCallback(enumSkip), syscall.NewCallback(enumReset), syscall.NewCallback(enumClone)},
		factory:  [7]uintptr{qi, add, rel, syscall.NewCallback(createInstance), syscall.NewCallback(lockServer)},
	}
}

func hold(o *object) *object {
	o.refs = 1
	mu.Lock()
	live[o] = true
	mu.Unlock()
	return o
}

func dispatchOf(a automation) *object { return hold(&object{vtbl: &tables().dispatch, impl: a}) }
func enumOf(items []any) *object {
	return hold(&object{vtbl: &tables().enum, enum: &enumerator{items: items}})
}

// Register makes WbemScripting.SWbemLocator activations in this process reach the simulation, until revoke is called. The calling
// thread must have initialised COM, or another thread the multithreaded apartment.
func Register(sim *hvsim.Sim) (revoke func() error, err error) {
	if !strings.Contains(os.Getenv("GODEBUG"), "gcshrinkstackoff=1") {
		return nil, errors.New("comfacade: stacks may be moved under COM calls: run with GODEBUG=gcshrinkstackoff=1")
	}
	f := hold(&object{vtbl: &tables().factory, make: func() automation { return newLocator(sim) }})
	var cookie uint32
	const inprocServer, multipleUse = 1, 1
	hr, _, _ := procRegisterClass.Call(uintptr(unsafe.Pointer(clsidLocator)), uintptr(unsafe.Pointer(f)), inprocServer, multipleUse, uintptr(unsafe.Pointer(&cookie)))
	if hr != sOK {
		release(f)
		return nil, fmt.Errorf("comfacade: CoRegisterClassObject: 0x%08X", uint32(hr))
	}
	return func() error {
		hr, _, _ := procRevokeClass.Call(uintptr(cookie))
		release(f)
		if hr != sOK {
			return fmt.Errorf("comfacade: CoRevokeClassObject: 0x%08X", uint32(hr))
		}
		return nil
	}, nil
}

// aside runs f on its own goroutine, so that the work does not grow the stack of the one that is inside a COM call.
//
// f must not hold pointers that the caller has passed: they may point into the waiting goroutine's stack. The input of f is
// copied before, and its output is written after, by the callback itself, whose typed parameters follow the stack.
func aside(f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	<-done
}

func queryInterface(this *object, iid *ole.GUID, out **object) uintptr {
	if out == nil {
		return ePointer
	}
	*out = nil
	ok := ole.IsEqualGUID(iid, ole.IID_IUnknown)
	switch {
	case ok:
	case this.make != nil:
		ok = ole.IsEqualGUID(iid, iidFactory)
	case this.enum != nil:
		ok = ole.IsEqualGUID(iid, ole.IID_IEnumVariant)
	default:
		ok = ole.IsEqualGUID(iid, ole.IID_IDispatch)
		for _, g := range this.impl.interfaces() {
			ok = ok || ole.IsEqualGUID(iid, g)
		}
	}
	if !ok {
		return eNoInterface
	}
	atomic.AddInt32(&this.refs, 1)
	*out = this
	return sOK
}

func addRef(this *object) uintptr { return uintptr(atomic.AddInt32(&this.refs, 1)) }

func release(this *object) uintptr {
	n := atomic.AddInt32(&this.refs, -1)
	if n == 0 {
		mu.Lock()
		delete(live, this)
		mu.Unlock()
	}
	return uintptr(n)
}

func typeInfoCount(_ *object, n *uint32) uintptr {
	*n = 0
	return sOK
}

func typeInfo(_ *object, _, _ uintptr, _ *uintptr) uintptr { return eNotImpl }

func createInstance(this *object, outer uintptr, iid *ole.GUID, out **object) uintptr {
	if outer != 0 {
		return noAggregation
	}
	o := dispatchOf(this.make())
	hr := queryInterface(o, iid, out)
	release(o)
	return hr
}

func lockServer(*object, uintptr) uintptr { return sOK }

func idsOfNames(this *object, _ *ole.GUID, wide **uint16, n, _ uintptr, ids *int32) uintptr {
	name := windows.UTF16PtrToString(*wide)
	known := make([]int32, 1)
	aside(func() {
		if n == 0 || !this.impl.has(name) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		k := strings.ToLower(name)
		id, ok := dispids[k]
		if !ok {
			id = int32(len(names))
			names = append(names, name)
			dispids[k] = id
		}
		known[0] = id
	})
	if known[0] == 0 {
		return dispUnknownName
	}
	*ids = known[0]
	return sOK
}

// answer is the result of a call, on the heap.
type answer struct {
	hr     uintptr
	value  ole.VARIANT
	except excepInfo
}

func invoke(this *object, dispid uintptr, _ *ole.GUID, _, flags uintptr, params *dispParams, result *ole.VARIANT, exception *excepInfo, _ *uint32) uintptr {
	var raw []ole.VARIANT
	if params != nil && params.nArgs > 0 {
		raw = append(raw, unsafe.Slice(params.args, params.nArgs)...)
	}
	wanted := result != nil
	out := new(answer)
	aside(func() {
		args := make([]any, len(raw))
		for i := range raw {
			args[len(raw)-1-i] = fromVariant(&raw[i]) // DISPPARAMS has the last argument first
		}
		v, err := this.impl.invoke(nameOf(int32(dispid)), int(flags&0xffff), args)
		if err != nil {
			out.hr, out.except = dispException, exceptionOf(err)
			return
		}
		if wanted {
			out.value = toVariant(v)
		}
	})
	if out.hr == sOK && result != nil {
		*result = out.value
	}
	if out.hr != sOK && exception != nil {
		*exception = out.except
	}
	return out.hr
}

func nameOf(id int32) string {
	switch {
	case id == dispidNewEnum:
		return "_NewEnum"
	case id == dispidValue:
		return ""
	}
	mu.Lock()
	defer mu.Unlock()
	if id > 0 && int(id) < len(names) {
		return names[id]
	}
	return "?"
}

func enumNext(this *object, n uintptr, to *ole.VARIANT, fetched *uint32) uintptr {
	e, want := this.enum, int(uint32(n))
	var next []ole.VARIANT
	out := &next
	aside(func() {
		for len(*out) < want && e.pos < len(e.items) {
			*out = append(*out, toVariant(e.items[e.pos]))
			e.pos++
		}
	})
	got := *out
	copy(unsafe.Slice(to, want), got)
	if fetched != nil {
		*fetched = uint32(len(got))
	}
	if len(got) < want {
		return sFalse
	}
	return sOK
}

func enumSkip(this *object, n uintptr) uintptr {
	this.enum.pos = min(len(this.enum.items), this.enum.pos+int(uint32(n)))
	return sOK
}

func enumReset(this *object) uintptr {
	this.enum.pos = 0
	return sOK
}

func enumClone(this *object, out **object) uintptr {
	o := enumOf(this.enum.items)
	o.enum.pos = this.enum.pos
	*out = o
	return sOK
}

package comfacade

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wbem"
	ole "github.com/go-ole/go-ole"
	"golang.org/x/sys/windows"
)

var (
	oleaut32         = windows.NewLazySystemDLL("oleaut32.dll")
	procCreateVector = oleaut32.NewProc("SafeArrayCreateVector")
	procPutElement   = oleaut32.NewProc("SafeArrayPutElement")
)

// pointer reads the pointer that a VARIANT holds.
func pointer(v *ole.VARIANT) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&v.Val)) }

func setPointer(v *ole.VARIANT, p unsafe.Pointer) { *(*unsafe.Pointer)(unsafe.Pointer(&v.Val)) = p }

// toVariant converts a value as the scripting interfaces show it.
func toVariant(v any) (out ole.VARIANT) {
	num := func(t ole.VT, n int64) { out.VT, out.Val = t, n }
	text := func(s string) {
		out.VT = ole.VT_BSTR
		setPointer(&out, unsafe.Pointer(ole.SysAllocStringLen(s)))
	}
	switch x := v.(type) {
	case nil:
		out.VT = ole.VT_NULL
	case bool:
		out.VT = ole.VT_BOOL
		if x {
			out.Val = 0xffff
		}
	case string:
		text(x)
	case uint8:
		num(ole.VT_UI1, int64(x))
	case int8:
		num(ole.VT_I2, int64(x))
	case int16:
		num(ole.VT_I2, int64(x))
	case uint16:
		num(ole.VT_I4, int64(x))
	case int32:
		num(ole.VT_I4, int64(x))
	case uint32:
		num(ole.VT_I4, int64(int32(x)))
	case int:
		num(ole.VT_I4, int64(int32(x)))
	case uint64, int64, float32, float64:
		text(fmt.Sprint(x))
	case cimx.Ref:
		text(x.Path())
	case []any:
		array(x, &out)
	case *object:
		out.VT = ole.VT_UNKNOWN
		setPointer(&out, unsafe.Pointer(x))
	case automation:
		out.VT = ole.VT_DISPATCH
		setPointer(&out, unsafe.Pointer(dispatchOf(x)))
	default:
		text(fmt.Sprint(x))
	}
	return out
}

func array(l []any, out *ole.VARIANT) {
	sa, _, _ := procCreateVector.Call(uintptr(ole.VT_VARIANT), 0, uintptr(len(l)))
	for i, e := range l {
		at, el := int32(i), toVariant(e)
		_, _, _ = procPutElement.Call(sa, uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&el)))
		_ = el.Clear() // the array has its own copy
	}
	out.VT, out.Val = ole.VT_ARRAY|ole.VT_VARIANT, int64(sa)
}

// fromVariant converts an argument; objects of this package come back as themselves.
func fromVariant(v *ole.VARIANT) any {
	for v.VT == ole.VT_VARIANT|ole.VT_BYREF {
		v = (*ole.VARIANT)(pointer(v))
	}
	switch {
	case v.VT == ole.VT_EMPTY || v.VT == ole.VT_NULL || v.VT == ole.VT_ERROR:
		return nil
	case v.VT == ole.VT_BSTR:
		return windows.UTF16PtrToString((*uint16)(pointer(v)))
	case v.VT == ole.VT_BOOL:
		return v.Val&0xffff != 0
	case v.VT == ole.VT_DISPATCH || v.VT == ole.VT_UNKNOWN:
		o := (*object)(pointer(v))
		mu.Lock()
		defer mu.Unlock()
		if o != nil && live[o] {
			return o.impl
		}
		return nil
	case v.VT&ole.VT_ARRAY != 0:
		a := v.ToArray()
		if a == nil {
			return []any{}
		}
		return append([]any{}, a.ToValueArray()...)
	case v.VT == ole.VT_UI4:
		return uint32(v.Val)
	case v.VT == ole.VT_UI2:
		return uint16(v.Val)
	}
	return v.Value()
}

// exceptionOf describes a WBEM error to the caller, who frees the strings.
func exceptionOf(err error) excepInfo {
	e := &wbem.Error{Code: wbem.Failed, Text: err.Error()}
	errors.As(err, &e)
	return excepInfo{scode: e.Code, source: bstr("SWbemServicesEx"), text: bstr(e.Text)}
}

func bstr(s string) *uint16 { return (*uint16)(unsafe.Pointer(ole.SysAllocStringLen(s))) }

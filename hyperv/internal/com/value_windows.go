package com

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	ole "github.com/go-ole/go-ole"
	"github.com/go-ole/go-ole/oleutil"
	"golang.org/x/sys/windows"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// each walks an enumeration, releasing every element after f.
func each(ctx context.Context, enum *ole.IEnumVARIANT, f func(*ole.VARIANT) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		v, n, err := enum.Next(1)
		if n == 0 {
			// The end is S_FALSE without an element. An error of a query
			// appears here too, because the query runs while it is read.
			if oe, ok := err.(*ole.OleError); ok && oe.Code() > 1 {
				return wmiError("query", err)
			}
			return nil
		}
		err = f(&v)
		v.Clear()
		if err != nil {
			return err
		}
	}
}

// collection walks a property that is an automation collection.
func collection(o *ole.IDispatch, name string, f func(*ole.VARIANT) error) error {
	set, err := oleutil.GetProperty(o, name)
	if err != nil {
		return wmiError(name, err)
	}
	defer set.Clear()
	ne, err := oleutil.GetProperty(set.ToIDispatch(), "_NewEnum")
	if err != nil {
		return wmiError(name, err)
	}
	defer ne.Clear()
	enum, err := ne.ToIUnknown().IEnumVARIANT(ole.IID_IEnumVariant)
	if err != nil {
		return wmiError(name, err)
	}
	defer enum.Release()
	return each(context.Background(), enum, f)
}

// readNamed copies the named properties, which takes less than half the calls
// of reading all of them. Without names it calls readObject.
func readNamed(o *ole.IDispatch, names []string) (*cim.Instance, error) {
	if len(names) == 0 || o == nil {
		return readObject(o)
	}
	i := &cim.Instance{Props: make([]cim.Prop, 0, len(names))}
	for _, n := range names {
		v, err := oleutil.GetProperty(o, n)
		if err != nil {
			return nil, wmiError(n, err)
		}
		val, err := fromVariant(v)
		v.Clear()
		if err != nil {
			return nil, err
		}
		i.Props = append(i.Props, cim.Prop{Name: n, Value: val})
	}
	return i, nil
}

// readObject copies an SWbemObject: its class and its properties.
func readObject(o *ole.IDispatch) (*cim.Instance, error) {
	if o == nil {
		return nil, fmt.Errorf("com: not an object")
	}
	i := &cim.Instance{}
	if path, err := oleutil.GetProperty(o, "Path_"); err == nil {
		if c, err := oleutil.GetProperty(path.ToIDispatch(), "Class"); err == nil {
			i.Class = c.ToString()
			c.Clear()
		}
		path.Clear()
	}
	err := collection(o, "Properties_", func(p *ole.VARIANT) error {
		d := p.ToIDispatch()
		name, err := oleutil.GetProperty(d, "Name")
		if err != nil {
			return wmiError("property", err)
		}
		defer name.Clear()
		v, err := oleutil.GetProperty(d, "Value")
		if err != nil {
			return wmiError(name.ToString(), err)
		}
		defer v.Clear()
		val, err := fromVariant(v)
		i.Props = append(i.Props, cim.Prop{Name: name.ToString(), Value: val})
		return err
	})
	return i, err
}

// fromVariant converts a value of the scripting API: uint8 comes as VT_UI1,
// sint16 as VT_I2, 16 and 32 bits as VT_I4, 64 bits, datetimes and references
// as text, embedded objects as VT_DISPATCH, arrays as SAFEARRAY.
func fromVariant(v *ole.VARIANT) (cim.Value, error) {
	if a := v.ToArray(); a != nil {
		var out cim.Value
		for _, e := range a.ToValueArray() {
			x, err := fromGo(e)
			if err != nil {
				return out, err
			}
			out.Append(x)
		}
		return out, nil
	}
	return fromGo(v.Value())
}

func fromGo(e any) (cim.Value, error) {
	switch x := e.(type) {
	case nil:
		return cim.Value{}, nil
	case string:
		return cim.TextValue(x), nil
	case bool:
		return cim.TextValue(strconv.FormatBool(x)), nil
	case *ole.IDispatch:
		if x == nil {
			return cim.Value{}, nil
		}
		i, err := readObject(x)
		return cim.InstanceValue(i), err
	case *ole.IUnknown:
		if x == nil {
			return cim.Value{}, nil
		}
		d, err := x.QueryInterface(ole.IID_IDispatch)
		if err != nil {
			return cim.Value{}, wmiError("embedded object", err)
		}
		defer d.Release()
		i, err := readObject(d)
		return cim.InstanceValue(i), err
	}
	return cim.TextValue(fmt.Sprint(e)), nil
}

// execMethod calls a method with named parameters. WmiMethod.Execute of the
// wmiinstance layer ignores errors of setting a parameter and logs each call.
func execMethod(o *ole.IDispatch, method string, args []cim.Arg) (*cim.Result, error) {
	params := []any{method}
	given := args[:0:0]
	for _, a := range args {
		if a.Value != nil {
			given = append(given, a)
		}
	}
	if len(given) > 0 {
		in, err := inParameters(o, method)
		if err != nil {
			return nil, err
		}
		defer in.Clear()
		for _, a := range given {
			if err := putValue(in.ToIDispatch(), a.Name, argVariant(a.Value)); err != nil {
				return nil, wmiError(method+"("+a.Name+")", err)
			}
		}
		params = append(params, in.ToIDispatch())
	}
	out, err := oleutil.CallMethod(o, "ExecMethod_", params...)
	if err != nil {
		return nil, wmiError(method, err)
	}
	defer out.Clear()
	i, err := readObject(out.ToIDispatch())
	if err != nil {
		return nil, err
	}
	ret, err := oleutil.GetProperty(out.ToIDispatch(), "ReturnValue")
	if err != nil {
		return nil, wmiError(method, err)
	}
	defer ret.Clear()
	v, err := fromVariant(ret)
	return &cim.Result{Method: method, Return: uint32(v.Uint()), Out: *i}, err
}

func inParameters(o *ole.IDispatch, method string) (*ole.VARIANT, error) {
	methods, err := oleutil.GetProperty(o, "Methods_")
	if err != nil {
		return nil, wmiError(method, err)
	}
	defer methods.Clear()
	m, err := oleutil.CallMethod(methods.ToIDispatch(), "Item", method)
	if err != nil {
		e := wmiError(method, err)
		if cim.KindOf(e) == cim.NotFound {
			return nil, &cim.Error{Op: method, HResult: cim.WBEMInvalidMethod}
		}
		return nil, e
	}
	defer m.Clear()
	class, err := oleutil.GetProperty(m.ToIDispatch(), "InParameters")
	if err != nil {
		return nil, wmiError(method, err)
	}
	defer class.Clear()
	if class.ToIDispatch() == nil {
		return nil, &cim.Error{Op: method, HResult: 0x8004102F, Detail: "the method takes no parameters"}
	}
	in, err := oleutil.CallMethod(class.ToIDispatch(), "SpawnInstance_")
	return in, wmiError(method, err)
}

// putValue sets a property through the Properties_ collection, which, unlike
// the object itself, has no members whose names could clash.
func putValue(o *ole.IDispatch, name string, v any) error {
	props, err := oleutil.GetProperty(o, "Properties_")
	if err != nil {
		return err
	}
	defer props.Clear()
	p, err := oleutil.CallMethod(props.ToIDispatch(), "Item", name)
	if err != nil {
		return err
	}
	defer p.Clear()
	if a, ok := v.([]any); ok {
		arr, err := safeArray(a)
		if err != nil {
			return err
		}
		defer arr.Clear()
		v = arr
	}
	r, err := oleutil.PutProperty(p.ToIDispatch(), "Value", v)
	if err != nil {
		return err
	}
	return r.Clear()
}

// argVariant converts a parameter: references become object paths, embedded
// instances CIM-XML text.
func argVariant(v any) any {
	switch x := v.(type) {
	case bool, string:
		return x
	case []cim.Ref:
		out := make([]any, len(x))
		for i := range x {
			out[i] = x[i].Path()
		}
		return out
	}
	text, typ, array := cim.Text(v)
	return variantOf(typ, array, text)
}

func propVariant(p cim.Prop) any { return variantOf(p.Type, p.Array, p.Value.Strings()) }

func variantOf(typ string, array bool, text []string) any {
	if !array {
		if len(text) == 0 {
			return nil
		}
		return scalar(typ, text[0])
	}
	out := make([]any, len(text))
	for i, s := range text {
		out[i] = scalar(typ, s)
	}
	return out
}

// scalar makes the automation value that WMI needs for a type: 64-bit numbers
// are sent as text, the smaller ones as VT_I4.
func scalar(typ, s string) any {
	switch typ {
	case "boolean":
		return strings.EqualFold(s, "true")
	case "uint8", "uint16", "uint32", "sint8", "sint16", "sint32":
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return s
		}
		return int32(n)
	}
	return s
}

var (
	oleaut32              = windows.NewLazySystemDLL("oleaut32.dll")
	safeArrayCreateVector = oleaut32.NewProc("SafeArrayCreateVector")
	safeArrayPutElement   = oleaut32.NewProc("SafeArrayPutElement")
)

// safeArray makes a SAFEARRAY of VARIANT, which go-ole has for strings and
// bytes only. The caller clears it.
func safeArray(a []any) (*ole.VARIANT, error) {
	sa, _, _ := safeArrayCreateVector.Call(uintptr(ole.VT_VARIANT), 0, uintptr(len(a)))
	if sa == 0 {
		return nil, fmt.Errorf("com: no memory for an array of %d", len(a))
	}
	out := ole.NewVariant(ole.VT_ARRAY|ole.VT_VARIANT, int64(sa))
	for i, e := range a {
		var v ole.VARIANT
		switch x := e.(type) {
		case string:
			v = ole.NewVariant(ole.VT_BSTR, int64(uintptr(unsafe.Pointer(ole.SysAllocStringLen(x)))))
		case int32:
			v = ole.NewVariant(ole.VT_I4, int64(x))
		case bool:
			v = ole.NewVariant(ole.VT_BOOL, 0)
			if x {
				v.Val = 0xffff
			}
		}
		ix := int32(i)
		hr, _, _ := safeArrayPutElement.Call(sa, uintptr(unsafe.Pointer(&ix)), uintptr(unsafe.Pointer(&v)))
		v.Clear() // the array has a copy
		if int32(hr) < 0 {
			out.Clear()
			return nil, ole.NewError(hr)
		}
	}
	return &out, nil
}

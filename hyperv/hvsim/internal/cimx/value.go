// Package cimx holds the simulator's own CIM values, instances, references and CIM-XML text.
//
// Go types of values: string (also datetime, in CIM form), bool, uint8…uint64, int8…int64, float32, float64,
// Ref, *Instance (embedded object) and []any for arrays of these. nil is NULL.
package cimx

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

// ErrType is wrapped by every refusal of a value for its declared type.
var ErrType = errors.New("type mismatch")

// Coerce turns v (text, or a Go number as automation clients send them) into the declared type.
func Coerce(t schema.Type, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	if !t.Array {
		return scalar(t, v)
	}
	var in []any
	switch x := v.(type) {
	case []any:
		in = x
	case []string:
		for _, s := range x {
			in = append(in, s)
		}
	default:
		in = []any{v}
	}
	out := make([]any, len(in))
	for i, e := range in {
		c, err := scalar(t, e)
		if err != nil {
			return nil, err
		}
		out[i] = c
	}
	return out, nil
}

func scalar(t schema.Type, v any) (any, error) {
	switch t.Kind {
	case schema.String:
		if s, ok := v.(string); ok {
			return s, nil
		}
	case schema.Datetime:
		if s, ok := v.(string); ok {
			if !ValidDatetime(s) {
				return nil, fmt.Errorf("%w: %q is no datetime", ErrType, s)
			}
			return s, nil
		}
	case schema.Boolean:
		switch x := v.(type) {
		case bool:
			return x, nil
		case string:
			switch strings.ToLower(strings.TrimSpace(x)) {
			case "true", "1":
				return true, nil
			case "false", "0":
				return false, nil
			}
		}
	case schema.Ref:
		switch x := v.(type) {
		case Ref:
			return x, nil
		case string:
			return ParsePath(x)
		}
	case schema.Object:
		if i, ok := v.(*Instance); ok {
			return i, nil
		}
	case schema.Real32, schema.Real64:
		f, err := toFloat(v)
		if err == nil && t.Kind == schema.Real32 {
			return float32(f), nil
		}
		return f, err
	default:
		return integer(t.Kind, v)
	}
	return nil, fmt.Errorf("%w: %T for %s", ErrType, v, t)
}

func toFloat(v any) (float64, error) {
	switch x := v.(type) {
	case float64:
		return x, nil
	case float32:
		return float64(x), nil
	case string:
		f, err := strconv.ParseFloat(strings.TrimSpace(x), 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %q is no number", ErrType, x)
		}
		return f, nil
	}
	return 0, fmt.Errorf("%w: %T is no number", ErrType, v)
}

// limits are the ranges of the integer kinds; uint64 is handled separately.
var limits = map[schema.Kind][2]int64{
	schema.Uint8: {0, math.MaxUint8}, schema.Uint16: {0, math.MaxUint16}, schema.Uint32: {0, math.MaxUint32},
	schema.Sint8: {math.MinInt8, math.MaxInt8}, schema.Sint16: {math.MinInt16, math.MaxInt16},
	schema.Sint32: {math.MinInt32, math.MaxInt32}, schema.Sint64: {math.MinInt64, math.MaxInt64},
}

func integer(k schema.Kind, v any) (any, error) {
	var n int64
	switch x := v.(type) {
	case int:
		n = int64(x)
	case int8:
		n = int64(x)
	case int16:
		n = int64(x)
	case int32:
		n = int64(x)
		if k == schema.Uint32 && x < 0 {
			n = int64(uint32(x)) // automation carries uint32 as a signed 32-bit integer
		}
	case int64:
		n = x
	case uint8:
		n = int64(x)
	case uint16:
		n = int64(x)
	case uint32:
		n = int64(x)
	case uint64:
		if k == schema.Uint64 {
			return x, nil
		}
		if x > math.MaxInt64 {
			return nil, fmt.Errorf("%w: %d is out of range for %s", ErrType, x, k)
		}
		n = int64(x)
	case string:
		s := strings.TrimSpace(x)
		if k == schema.Uint64 {
			u, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%w: %q for %s", ErrType, x, k)
			}
			return u, nil
		}
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: %q for %s", ErrType, x, k)
		}
		n = i
	default:
		return nil, fmt.Errorf("%w: %T for %s", ErrType, v, k)
	}
	if k == schema.Uint64 {
		if n < 0 {
			return nil, fmt.Errorf("%w: %d is out of range for %s", ErrType, n, k)
		}
		return uint64(n), nil
	}
	l := limits[k]
	if n < l[0] || n > l[1] {
		return nil, fmt.Errorf("%w: %d is out of range for %s", ErrType, n, k)
	}
	switch k {
	case schema.Uint8:
		return uint8(n), nil
	case schema.Uint16:
		return uint16(n), nil
	case schema.Uint32:
		return uint32(n), nil
	case schema.Sint8:
		return int8(n), nil
	case schema.Sint16:
		return int16(n), nil
	case schema.Sint32:
		return int32(n), nil
	}
	return n, nil
}

// Text formats a scalar value as WMI does in XML.
func Text(v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		return x
	case bool:
		if x {
			return "true"
		}
		return "false"
	case Ref:
		return x.Path()
	}
	return fmt.Sprint(v)
}

// Datetime formats a time in CIM form, UTC.
func Datetime(t time.Time) string { return t.UTC().Format("20060102150405.000000") + "+000" }

// Interval formats a duration in CIM form.
func Interval(d time.Duration) string {
	s := int64(d / time.Second)
	return fmt.Sprintf("%08d%02d%02d%02d.%06d:000", s/86400, s/3600%24, s/60%60, s%60, d%time.Second/time.Microsecond)
}

// ValidDatetime reports whether s has the CIM datetime form.
func ValidDatetime(s string) bool {
	if len(s) != 25 || s[14] != '.' || !strings.ContainsRune("+-:", rune(s[21])) {
		return false
	}
	for i, c := range s {
		if i != 14 && i != 21 && (c < '0' || c > '9') && c != '*' {
			return false
		}
	}
	return true
}

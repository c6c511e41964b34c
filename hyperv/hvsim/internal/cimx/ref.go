package cimx

import (
	"fmt"
	"sort"
	"strings"
)

// Ref names one instance (or, without keys, a class).
type Ref struct {
	Host      string // empty: this host
	Namespace string // with slashes; empty: the current one
	Class     string
	Keys      []KeyValue
}

// KeyValue is one key of a Ref.
type KeyValue struct{ Name, Value string }

// Key is the part of a reference that distinguishes instances of one class family, in a canonical form.
func (r Ref) Key() string {
	ks := make([]string, len(r.Keys))
	for i, k := range r.Keys {
		ks[i] = strings.ToLower(k.Name + "=" + k.Value)
	}
	sort.Strings(ks)
	return strings.Join(ks, "\x00")
}

// Value returns a key's value.
func (r Ref) Value(name string) string {
	for _, k := range r.Keys {
		if strings.EqualFold(k.Name, name) {
			return k.Value
		}
	}
	return ""
}

// RelPath formats the object path below the namespace.
func (r Ref) RelPath() string {
	if len(r.Keys) == 0 {
		return r.Class
	}
	var b strings.Builder
	b.WriteString(r.Class)
	for i, k := range r.Keys {
		b.WriteByte(".,"[min(i, 1)])
		b.WriteString(k.Name)
		b.WriteString(`="`)
		b.WriteString(escape.Replace(k.Value))
		b.WriteByte('"')
	}
	return b.String()
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// Path formats the whole object path.
func (r Ref) Path() string {
	ns := strings.ReplaceAll(r.Namespace, "/", `\`)
	if r.Host == "" {
		return ns + ":" + r.RelPath()
	}
	return `\\` + r.Host + `\` + ns + ":" + r.RelPath()
}

// ParsePath reads an object path: absolute, with a namespace, or relative.
func ParsePath(s string) (Ref, error) {
	var r Ref
	bad := func(why string) (Ref, error) { return Ref{}, fmt.Errorf("%w: object path %q: %s", ErrType, s, why) }
	rest := strings.TrimSpace(s)
	if q := strings.IndexAny(rest, `"'`); true {
		head := rest
		if q >= 0 {
			head = rest[:q]
		}
		if c := strings.IndexByte(head, ':'); c >= 0 {
			ns := strings.ReplaceAll(rest[:c], `\`, "/")
			rest = rest[c+1:]
			if strings.HasPrefix(ns, "//") {
				h, n, ok := strings.Cut(ns[2:], "/")
				if !ok || h == "" {
					return bad("no namespace")
				}
				r.Host, ns = h, n
			}
			r.Namespace = strings.Trim(ns, "/")
		}
	}
	i := strings.IndexAny(rest, ".=")
	if i < 0 {
		r.Class = rest
		if !identifier(r.Class) {
			return bad("no class")
		}
		return r, nil
	}
	r.Class, rest = rest[:i], strings.TrimPrefix(rest[i:], ".")
	if !identifier(r.Class) {
		return bad("no class")
	}
	for rest != "" {
		n, v, ok := strings.Cut(rest, "=")
		if !ok {
			return bad("key without value")
		}
		val, tail, err := keyValue(v)
		if err != "" {
			return bad(err)
		}
		r.Keys = append(r.Keys, KeyValue{strings.TrimSpace(n), val})
		if rest = strings.TrimSpace(tail); rest != "" {
			if rest[0] != ',' {
				return bad("junk after a key")
			}
			rest = rest[1:]
		}
	}
	return r, nil
}

func identifier(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9' || i == 0) {
			return false
		}
	}
	return s != ""
}

func keyValue(s string) (val, tail, bad string) {
	s = strings.TrimSpace(s)
	if s == "" || (s[0] != '"' && s[0] != '\'') {
		i := strings.IndexByte(s, ',')
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:], ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == s[0]:
			return b.String(), s[i+1:], ""
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", "unterminated key value"
}

package cim

import (
	"fmt"
	"slices"
	"strings"
)

// Ref addresses an instance. It is written as an object path for COM and
// inside embedded instances ([Ref.Path]) and as an endpoint reference for
// WS-Management ([Ref.EPR]).
type Ref struct {
	// Server is the host part of the path; it may be empty.
	Server string
	// Namespace has forward slashes: "root/virtualization/v2".
	Namespace string
	Class     string
	Keys      []Key
}

// Key is a key property and its value as text.
type Key struct{ Name, Value string }

// NewRef makes a reference into the virtualization namespace from a class and
// alternating key names and values.
func NewRef(class string, kv ...string) Ref {
	r := Ref{Namespace: Virtualization, Class: class}
	for i := 0; i+1 < len(kv); i += 2 {
		r.Keys = append(r.Keys, Key{kv[i], kv[i+1]})
	}
	return r
}

// Key returns the value of a key, or "".
func (r Ref) Key(name string) string {
	for _, k := range r.Keys {
		if strings.EqualFold(k.Name, name) {
			return k.Value
		}
	}
	return ""
}

// IsZero reports whether r addresses nothing.
func (r Ref) IsZero() bool { return r.Class == "" }

// RelPath returns the path without server and namespace, for ASSOCIATORS OF.
func (r Ref) RelPath() string {
	var b strings.Builder
	b.WriteString(r.Class)
	keys := slices.Clone(r.Keys)
	slices.SortFunc(keys, func(x, y Key) int { return strings.Compare(x.Name, y.Name) })
	for i, k := range keys {
		b.WriteByte(".,"[min(i, 1)])
		b.WriteString(k.Name)
		b.WriteString(`="`)
		b.WriteString(pathEscaper.Replace(k.Value))
		b.WriteByte('"')
	}
	return b.String()
}

// Path returns the full object path. An empty server is written as ".", the
// local machine.
func (r Ref) Path() string {
	server := r.Server
	if server == "" {
		server = "."
	}
	return `\\` + server + `\` + strings.ReplaceAll(r.Namespace, "/", `\`) + ":" + r.RelPath()
}

func (r Ref) String() string { return r.Path() }

// Equal compares class and keys. The spelling of server and namespace may
// differ between the two ways in which one object was reached.
func (r Ref) Equal(o Ref) bool {
	if !strings.EqualFold(r.Class, o.Class) || len(r.Keys) != len(o.Keys) {
		return false
	}
	for _, k := range r.Keys {
		if !strings.EqualFold(o.Key(k.Name), k.Value) {
			return false
		}
	}
	return true
}

var pathEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// notInNames has the characters that no name of a class or key contains.
const notInNames = "\\/:\"'.,= \t\r\n"

// ParsePath reads an object path, with or without server and namespace.
// Syntax: "WMI Tasks: Describing the Location of a WMI Object" of the WMI
// documentation.
func ParsePath(s string) (Ref, error) {
	bad := func(why string) (Ref, error) { return Ref{}, fmt.Errorf("cim: object path %q: %s", s, why) }
	var r Ref
	rest := s
	if strings.HasPrefix(rest, `\\`) || strings.HasPrefix(rest, "//") {
		i := strings.IndexAny(rest[2:], `\/`)
		if i < 0 {
			return bad("no namespace")
		}
		r.Server, rest = rest[2:2+i], rest[3+i:]
	}
	// A colon before any quote ends the namespace.
	if i := strings.IndexAny(rest, `:"`); i >= 0 && rest[i] == ':' {
		r.Namespace, rest = strings.ReplaceAll(rest[:i], `\`, "/"), rest[i+1:]
	}
	i := strings.IndexAny(rest, ".=")
	if i < 0 || rest[i] == '=' {
		return bad("no keys")
	}
	r.Class, rest = rest[:i], rest[i+1:]
	if r.Class == "" || strings.ContainsAny(r.Class, notInNames) {
		return bad("no class")
	}
	for {
		i := strings.IndexByte(rest, '=')
		if i <= 0 || i+1 >= len(rest) || strings.ContainsAny(rest[:i], notInNames) {
			return bad("bad key")
		}
		k := Key{Name: rest[:i]}
		rest = rest[i+1:]
		if rest[0] != '"' {
			j := strings.IndexByte(rest, ',')
			if j < 0 {
				j = len(rest)
			}
			k.Value, rest = rest[:j], rest[j:]
		} else {
			var b strings.Builder
			j, closed := 1, false
			for ; j < len(rest) && !closed; j++ {
				switch {
				case rest[j] == '\\' && j+1 < len(rest):
					j++
					b.WriteByte(rest[j])
				case rest[j] == '"':
					closed = true
				default:
					b.WriteByte(rest[j])
				}
			}
			if !closed {
				return bad("quote not closed")
			}
			k.Value, rest = b.String(), rest[j:]
		}
		r.Keys = append(r.Keys, k)
		if rest == "" {
			return r, nil
		}
		if rest[0] != ',' {
			return bad("text after a key")
		}
		rest = rest[1:]
	}
}

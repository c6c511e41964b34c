package hypervisor_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

// TestOperationsAreTheConstants: the table has each constant of package op
// once, and nothing else.
func TestOperationsAreTheConstants(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "op/op.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []op.Name
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			s, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, op.Name(s))
		}
		return true
	})
	var have []op.Name
	for _, o := range hypervisor.Operations() {
		have = append(have, o.Name)
	}
	slices.Sort(want)
	slices.Sort(have)
	if len(want) < 70 || !slices.Equal(want, have) {
		t.Errorf("package op has\n%v\nand the table\n%v", want, have)
	}
}

// TestOperationsNameMethods: each row names a method that there is, returns a
// Task or not, and needs capabilities that there are.
func TestOperationsNameMethods(t *testing.T) {
	types := map[string]reflect.Type{}
	for _, x := range []any{&hypervisor.Client{}, &hypervisor.VM{}, &hypervisor.Template{}, &hypervisor.Snapshot{}, &hypervisor.Host{}} {
		types[reflect.TypeOf(x).Elem().Name()] = reflect.TypeOf(x)
	}
	types["Task"] = reflect.TypeFor[*hypervisor.Task[hypervisor.None]]()
	for _, o := range hypervisor.Operations() {
		object, verb, ok := strings.Cut(string(o.Name), ".")
		if !ok || object == "" || verb == "" || strings.ContainsAny(verb, ".") {
			t.Errorf("%s is not an object, a dot and a verb", o.Name)
		}
		for _, k := range o.Capabilities {
			if !slices.Contains(capability.All(), k) {
				t.Errorf("%s needs %s, which is no capability", o.Name, k)
			}
		}
		recv, name, ok := strings.Cut(o.Method, ".")
		if !ok { // a function, or a step of others
			continue
		}
		m, ok := types[recv].MethodByName(name)
		if !ok {
			t.Errorf("%s: there is no method %s", o.Name, o.Method)
			continue
		}
		isTask := m.Type.NumOut() == 1 && strings.HasPrefix(m.Type.Out(0).String(), "*hypervisor.Task[")
		if isTask != o.Task {
			t.Errorf("%s: the table says Task %v, the method returns %v", o.Name, o.Task, m.Type.Out(0))
		}
		if o.Request != nil && !takes(m.Type, reflect.TypeOf(o.Request)) {
			t.Errorf("%s: %s does not take a %T", o.Name, o.Method, o.Request)
		}
	}
}

func takes(f, want reflect.Type) bool {
	for i := range f.NumIn() {
		if in := f.In(i); in == want || in == reflect.PointerTo(want) {
			return true
		}
	}
	return false
}

// TestCapabilitiesHaveOperations: every capability is one that an operation
// needs, so that no row of the matrix is about nothing.
func TestCapabilitiesHaveOperations(t *testing.T) {
	for _, k := range capability.All() {
		if !slices.ContainsFunc(hypervisor.Operations(), func(o hypervisor.Operation) bool { return slices.Contains(o.Capabilities, k) }) {
			t.Errorf("no operation needs %s", k)
		}
	}
}

func TestMatchOperations(t *testing.T) {
	if n, err := hypervisor.MatchOperations("snapshot.*"); err != nil || len(n) != 6 {
		t.Errorf("snapshot.*: %v, %v", n, err)
	}
	for _, bad := range []op.Name{"migrate", "vm.migrat", "", "vm.[", "*.nothing"} {
		if n, err := hypervisor.MatchOperations(bad); !errors.Is(err, hypervisor.ErrInvalidArgument) || !strings.Contains(err.Error(), strconv.Quote(string(bad))) {
			t.Errorf("%q: %v, %v", bad, n, err)
		}
	}
}

func TestUnknownCapability(t *testing.T) {
	c := open(t, &stub{}, nil)
	if _, err := c.Supports(t.Context(), "clone.quick", hypervisor.Ref{}); !errors.Is(err, hypervisor.ErrInvalidArgument) {
		t.Errorf("Supports: %v", err)
	}
	_, err := hypervisor.New(t.Context(), &stub{}, &hypervisor.Options{Require: []capability.Name{"clone.quick"}})
	if !errors.Is(err, hypervisor.ErrInvalidArgument) || !strings.Contains(err.Error(), "clone.quick") {
		t.Errorf("Require: %v", err)
	}
}

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// packages are the ones that pages name in short: `fake.Config`.
var packages = map[string]string{
	"hypervisor": "../hypervisor", "fake": "../hypervisor/fake", "capability": "../hypervisor/capability", "op": "../hypervisor/op",
	"hypervisortest": "../hypervisor/hypervisortest", "imagefile": "../hypervisor/imagefile", "otelhypervisor": "../hypervisor/otelhypervisor",
	"fleet": "../hypervisor/fleet", "fleettest": "../hypervisor/fleet/fleettest", "dbosfleet": "../hypervisor/fleet/dbosfleet",
	"kvm": "../kvm", "vsphere": "../vsphere", "hyperv": "../hyperv", "xen": "../xen", "vspheresim": "../vsphere/vspheresim", "hvsim": "../hyperv/hvsim", "xapisim": "../xen/xapisim",
}

// declared returns what a package declares: Name for each name, and Type.Name
// for methods, fields, and methods of interfaces.
func declared(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	out := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					out[d.Name.Name] = true
				} else {
					out[receiver(d.Recv.List[0].Type)+"."+d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.ValueSpec:
						for _, n := range s.Names {
							out[n.Name] = true
						}
					case *ast.TypeSpec:
						out[s.Name.Name] = true
						for _, m := range members(s.Type) {
							out[s.Name.Name+"."+m] = true
						}
					}
				}
			}
		}
	}
	return out
}

// receiver returns the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// members returns the names of a struct's fields or an interface's methods.
func members(e ast.Expr) (out []string) {
	var list *ast.FieldList
	switch e := e.(type) {
	case *ast.StructType:
		list = e.Fields
	case *ast.InterfaceType:
		list = e.Methods
	default:
		return nil
	}
	for _, f := range list.List {
		for _, n := range f.Names {
			out = append(out, n.Name)
		}
	}
	return out
}

// TestNamesInPages: the names of Go that the pages mention in backquotes, such as
// `fake.Config` or `VM.Clone`, are there. A name without a package is looked for
// in all of them, if one declares its type.
func TestNamesInPages(t *testing.T) {
	quoted := regexp.MustCompile("`[^`\n]+`")
	name := regexp.MustCompile(`(?:^|[^\w./-])([a-z]+)\.([A-Z]\w*(?:\.[A-Z]\w*)?)`)
	member := regexp.MustCompile(`(?:^|[^\w./-])([A-Z]\w*)\.([A-Z]\w*)`)
	known, all := map[string]map[string]bool{}, map[string]bool{}
	for _, dir := range packages {
		known[dir] = declared(t, dir)
		maps.Copy(all, known[dir])
	}
	n := 0
	for _, pattern := range []string{"../*.md", "*.md", "guides/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			if page == "decisions.md" {
				continue // it names what was decided against, too
			}
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range quoted.FindAllString(string(goBlock.ReplaceAll(text, nil)), -1) {
				for _, m := range member.FindAllStringSubmatch(strings.Trim(q, "`"), -1) {
					if n++; all[m[1]] && !all[m[1]+"."+m[2]] {
						t.Errorf("%s mentions %s.%s, which no package declares", page, m[1], m[2])
					}
				}
				for _, m := range name.FindAllStringSubmatch(strings.Trim(q, "`"), -1) {
					dir, ok := packages[m[1]]
					if !ok {
						continue
					}
					n++
					if !known[dir][m[2]] {
						t.Errorf("%s mentions %s.%s, which is not declared in %s", page, m[1], m[2], dir)
					}
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("the pages mention %d names", n)
	}
}

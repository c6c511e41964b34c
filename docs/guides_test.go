// Package docs has only a test: the Go code in the guides compiles, and links
// lead to files that are there.
package docs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// prelude is what a fragment in a guide may use without saying so.
const prelude = `package snippet

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/fake"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

var (
	_ context.Context
	_ = errors.Is
	_ = fmt.Sprint
	_ = log.Print
	_ time.Duration
	_ hypervisor.Ref
	_ capability.Name
	_ fake.Config
	_ op.Name
)
`

var goBlock = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")

// source makes a file of a block. A block is a whole file, declarations, or
// statements that may use ctx, c, vm, tpl and b and may return an error.
func source(block string) string {
	for _, word := range []string{"package ", "// Package "} {
		if strings.HasPrefix(block, word) {
			return block
		}
	}
	for _, word := range []string{"func ", "type ", "var ("} {
		if strings.HasPrefix(block, word) {
			return prelude + "\n" + block
		}
	}
	return prelude + "\nfunc _(ctx context.Context, c *hypervisor.Client, vm *hypervisor.VM, tpl *hypervisor.Template, b *fake.Backend) error {\n" + block + "\nreturn nil\n}\n"
}

// TestGuidesCompile compiles every block of Go in the guides, and
// the programs in the README.
// It links nothing and needs neither cgo nor a network.
func TestGuidesCompile(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("guides/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no guides: %v", err)
	}
	pages = append(pages, "../README.md")
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	args := []string{"list", "-export", "-f", "{{.ImportPath}}", "-overlay", filepath.Join(dir, "overlay.json")}
	where := map[string]string{}
	for _, page := range pages {
		if page == "guides/fleets.md" {
			continue // about another module, whose TestGuide compares it with its examples
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range goBlock.FindAllSubmatchIndex(text, -1) {
			block := string(text[m[2]:m[3]])
			if page == "../README.md" && !strings.HasPrefix(block, "package ") {
				continue // a sketch
			}
			src := source(block)
			name := fmt.Sprintf("zz_%s_%d", strings.TrimSuffix(filepath.Base(page), ".md"), i)
			file := filepath.Join(dir, name+".go")
			if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
				t.Fatal(err)
			}
			overlay.Replace[filepath.Join(root, "docs", "guides", name, "snippet.go")] = file
			args = append(args, "./docs/guides/"+name)
			where[name] = fmt.Sprintf("%s:%d", page, 1+strings.Count(string(text[:m[0]]), "\n"))
		}
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOPROXY=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
		for name, line := range where {
			if strings.Contains(string(out), name) {
				t.Errorf("%s is %s", name, line)
			}
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)\s]*)?\)`)

// TestLinks looks whether the files that the pages link to are there.
func TestLinks(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../*.md", "*.md", "guides/*.md"} {
		p, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, p...)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(goBlock.ReplaceAll(text, nil), -1) {
			to := string(m[1])
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), to)); err != nil {
				t.Errorf("%s links to %s, which is not there", page, to)
			}
		}
	}
}

package anyvisor

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv"
	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/kvm"
	"github.com/anyvisor/anyvisor/vsphere"
	"github.com/anyvisor/anyvisor/xen"
)

const word = "s3cret-word"

// fill puts the word into every Secret, and something into all else.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("text")
		if v.Type() == reflect.TypeFor[hypervisor.Secret]() {
			v.SetString(word)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		if v.Type().Elem().PkgPath() != "crypto/tls" {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	}
}

// key is a private key that shows.
type key struct{ D string }

// TestConfigurationsShowNoSecret also inside of other values.
func TestConfigurationsShowNoSecret(t *testing.T) {
	certificate := &tls.Certificate{PrivateKey: key{word}}
	uri := "qemu+tls://ann:" + word + "@h/system"
	for _, c := range []any{
		&hyperv.Config{}, &vsphere.Config{}, &xen.Config{}, &kvm.Config{}, &xen.LibxlConfig{}, &hypervisor.Credentials{}, &hypervisor.ExecRequest{},
		&hypervisor.Options{}, &hypervisor.VMSpec{}, &hypervisor.CloneOptions{}, &hypervisor.MigrateOptions{},
	} {
		fill(reflect.ValueOf(c).Elem())
		switch c := c.(type) {
		case *hyperv.Config:
			c.Certificate = certificate
		case *vsphere.Config:
			c.Certificate = certificate
		case *kvm.Config:
			c.Hosts, c.Peers = []string{uri}, map[string]kvm.Peer{uri: {URI: uri}}
		case *xen.LibxlConfig:
			c.Hosts, c.Peers = []string{uri}, map[string]xen.LibxlPeer{uri: {URI: uri}}
		}
		v := reflect.ValueOf(c).Elem().Interface()
		var b bytes.Buffer
		for _, v := range []any{v, c, struct{ Of any }{v}} {
			fmt.Fprintf(&b, "%v %+v %#v %s %q %x", v, v, v, v, v, v)
			slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
			slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
			if err := json.NewEncoder(&b).Encode(v); err != nil && reflect.TypeOf(c).Elem().Name() != "Options" { // whose Observer has functions
				t.Errorf("%T: %v", c, err)
			}
		}
		if s := b.String(); strings.Contains(s, word) || strings.Contains(s, fmt.Sprintf("%x", word)) {
			t.Errorf("%T shows its secret: %s", c, s)
		}
	}
}

// secretName are names of fields that hold a secret, or the name of a file
// with one.
var secretName = regexp.MustCompile(`(?i)password|passphrase|secret|credential|privatekey|token$|key$|ticket|cookie`)

// noSecrets are fields with such a name that hold none.
var noSecrets = map[string]string{
	"VMSpec.Token": "the caller's name for a call", "CloneOptions.Token": "the same", "CloneRequest.Token": "the same", "VMInfo.Token": "the same",
	"VMQuery.Token": "the same", "DeployOptions.Token": "the same", "Event.Token": "a place in the stream of events",
	"Config.CredentialCache": "a file's name", "Config.ExtensionKey": "a name", "Events.Token": "a place in the stream of events",
	"Attempt.Token": "the same", "Mark.Token": "the caller's name for a call", "MarkLabel.Key": "the key of a label",
}

// TestSecretsHaveTheType: no exported field of a public package that is named
// like a secret is a plain string. The simulators' logins guard nothing.
func TestSecretsHaveTheType(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (name == "lab" || name == "vspheresim" || name == "xapisim" || name == "hvsim" || name == "testdata" || name == "examples" || path != "." && name[0] == '.'):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			s, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					if !name.IsExported() || !spec.Name.IsExported() || !secretName.MatchString(name.Name) {
						continue
					}
					seen++
					kind := fmt.Sprint(field.Type)
					if a, ok := field.Type.(*ast.ArrayType); ok {
						kind = fmt.Sprint(a.Elt)
					}
					if at := spec.Name.Name + "." + name.Name; (kind == "string" || kind == "byte") && noSecrets[at] == "" {
						t.Errorf("%s: %s is a %s: make it a hypervisor.Secret, or say in this test why it is none", path, at, kind)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil || seen < 10 {
		t.Errorf("%d fields looked at, %v", seen, err)
	}
}

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// config is the file with named connections, such as
//
//	current: lab
//	connections:
//	  lab:
//	    url: xapi://root@pool.example
//	    passwordFile: /home/ann/.config/hv/lab.password
//
// It holds no passwords: each is in a file of its own, or in the environment.
type config struct {
	Current     string                `yaml:"current" json:"current"`
	Connections map[string]connection `yaml:"connections" json:"connections"`

	path string
}

type connection struct {
	URL          string `yaml:"url" json:"url"`
	PasswordFile string `yaml:"passwordFile,omitempty" json:"passwordFile,omitempty"` // its first line is the password
}

// readConfig reads a file; an empty path means hv/config.yaml in the user's
// folder for configurations, which need not exist.
func readConfig(path string) (config, error) {
	asked := path != ""
	if !asked {
		dir, err := os.UserConfigDir()
		if err != nil {
			return config{}, nil // no home, no file
		}
		path = filepath.Join(dir, "hv", "config.yaml")
	}
	c := config{path: path}
	f, err := os.Open(path)
	if !asked && errors.Is(err, fs.ErrNotExist) {
		return c, nil
	} else if err != nil {
		return c, err
	}
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// target returns the URL and the login of what -c names: a URL or the name of
// a connection. An empty name means the current connection, or else the fake.
func (c config) target(name string) (string, *hypervisor.Credentials, error) {
	if strings.Contains(name, "://") {
		return name, nil, nil
	}
	if name == "" {
		name = c.Current
	}
	if name == "" {
		return "fake://", nil, nil
	}
	at, ok := c.Connections[name]
	if !ok {
		return "", nil, usagef("%q is neither a URL nor a connection of %s, which has: %s", name, c.path, strings.Join(slices.Sorted(maps.Keys(c.Connections)), ", "))
	}
	if at.PasswordFile == "" {
		return at.URL, nil, nil
	}
	b, err := os.ReadFile(at.PasswordFile)
	if err != nil {
		return "", nil, err
	}
	u, err := url.Parse(at.URL)
	if err != nil {
		return "", nil, fmt.Errorf("the URL of connection %s in %s can't be read", name, c.path) // err would show it
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return at.URL, &hypervisor.Credentials{Username: u.User.Username(), Password: hypervisor.Secret(strings.TrimSuffix(first, "\r"))}, nil
}

type connectionsCmd struct{}

func (*connectionsCmd) Run(a *app) error {
	var rows [][]any
	for _, name := range slices.Sorted(maps.Keys(a.config.Connections)) {
		mark := ""
		if name == a.config.Current {
			mark = "*"
		}
		rows = append(rows, []any{name + mark, a.config.Connections[name].URL})
	}
	return a.print(a.config, "NAME URL", rows)
}

package endpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// Params are the parameters that a driver's URL may have, each with the
// function that reads its value.
type Params map[string]func(value string) error

// plain are names that a parameter may have.
var plain = regexp.MustCompile(`^[a-z]{1,20}$`)

// Read reads the parameters of a URL. Unknown and repeated ones, and wrong
// values, are refused. An error names the parameter and never its value,
// which may be a secret.
func (p Params) Read(u *url.URL) error {
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Invalid("the URL's parameters can't be parsed: write %% and ; as %%25 and %%3B")
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		set, ok := p[name]
		switch {
		case !ok:
			if !plain.MatchString(name) { // it may be the rest of a password after a ?
				name = "…"
			}
			return Invalid("unknown URL parameter %q: the driver knows %s", name, strings.Join(slices.Sorted(maps.Keys(p)), ", "))
		case len(q[name]) > 1:
			return Invalid("URL parameter %s is given %d times", name, len(q[name]))
		}
		if err := set(q.Get(name)); err != nil {
			return Invalid("URL parameter %s: %w", name, err)
		}
	}
	return nil
}

// Invalid makes the error of a URL or configuration that can't be right. The
// caller that knows the URL sets the object.
func Invalid(format string, args ...any) *hypervisor.Error {
	e := hypervisor.Errorf(hypervisor.ErrInvalidArgument, hypervisor.Ref{}, format, args...)
	e.Unsent = true
	return e
}

// Text accepts any value but the empty one.
func Text(to *string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("the value is empty")
		}
		*to = s
		return nil
	}
}

// Bool accepts true and false, or 1 and 0.
func Bool(to *bool) func(string) error {
	return func(s string) (err error) {
		if *to, err = strconv.ParseBool(s); err != nil {
			return errors.New("the value must be true or false")
		}
		return nil
	}
}

// Duration accepts a duration such as 90s.
func Duration(to *time.Duration) func(string) error {
	return func(s string) (err error) {
		if *to, err = time.ParseDuration(s); err != nil {
			return errors.New("the value must be a duration such as 90s")
		}
		return nil
	}
}

// Count accepts a whole number from 1.
func Count(to *int) func(string) error {
	return func(s string) (err error) {
		if *to, err = strconv.Atoi(s); err != nil || *to < 1 {
			return errors.New("the value must be a whole number from 1")
		}
		return nil
	}
}

// OneOf accepts one of the known values.
func OneOf[T ~string](to *T, known ...T) func(string) error {
	return func(s string) error {
		if !slices.Contains(known, T(s)) {
			return fmt.Errorf("the value must be one of %v", known)
		}
		*to = T(s)
		return nil
	}
}

// File accepts the name of a file and reads its content.
func File[T ~string](to *T) func(string) error {
	return func(name string) error {
		b, err := readFile(name)
		if err != nil {
			return unnamed(err)
		}
		if len(b) == 0 {
			return errors.New("the file is empty")
		}
		*to = T(b)
		return nil
	}
}

// maxFile is the largest size of a certificate, a key or a token.
const maxFile = 1 << 20

// readFile reads a small file. Its limit also stops at /dev/zero, which has
// no end.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = errors.New("the file is larger than 1 MiB")
	}
	return b, err
}

// unnamed is an error of a file without the file's name, because somebody may
// have given the secret itself instead.
func unnamed(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("the file can't be read: %w", p.Err)
	}
	return err
}

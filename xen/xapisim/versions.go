package xapisim

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/xen/internal/xapidata"
)

// missing lists what a xapi lacks, by the data model's life cycles: classes, fields, messages, and parameters as class.message.parameter.
// The API version does not distinguish them: 2.20 is 22.5.0 to 24.9, 2.21 is 24.10.0 to 26.13.
func missing(build string) (out []string) {
	since := xapidata.Load().Additions()
	for _, what := range slices.Sorted(maps.Keys(since)) {
		if older(build, since[what]) {
			out = append(out, what)
		}
	}
	return out
}

// apiMinor is the second number of host.API_version.
func apiMinor(build string) int64 {
	switch {
	case older(build, "22.5.0"):
		return 15
	case older(build, "24.10.0"):
		return 20
	}
	return 21 // later ones are not known
}

// forget makes messages unknown, hides fields and drops classes that the server lacks.
func (s *Sim) forget() {
	for _, what := range s.cfg.Lacks {
		class, name, field := strings.Cut(what, ".")
		t := s.tables[class]
		if t == nil || strings.Contains(name, ".") {
			continue
		}
		if !field {
			t.lacking = true
			for _, m := range t.class.Messages {
				s.unknown[class+"."+m.Name] = true
			}
			continue
		}
		i := t.class.FieldIndex(name)
		if i < 0 {
			s.unknown[what] = true
			continue
		}
		t.hidden[i] = true
		for _, p := range []string{"get_", "set_", "add_to_", "remove_from_", "add_", "remove_"} {
			s.unknown[class+"."+p+name] = true
		}
	}
}

// older compares versions such as "24.11.0". Text that is not a version is older than all.
func older(a, b string) bool {
	number := func(s string) (out []int) {
		for p := range strings.SplitSeq(s, ".") {
			n, err := strconv.Atoi(p)
			if err != nil {
				break
			}
			out = append(out, n)
		}
		return out
	}
	return slices.CompareFunc(number(a), number(b), cmp.Compare[int]) < 0
}

package hvsim

import (
	"regexp"
	"slices"
	"strings"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
)

var reAuto = regexp.MustCompile(`(?i)_[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`)

// overlay returns the name of a new automatic differencing disk over p: <name>_<guid>.avhdx next to it (believed).
func (h *Host) overlay(p string) string {
	e := ".avhdx"
	if strings.HasSuffix(ext(p), "vhd") {
		e = ".avhd"
	}
	return join(dir(p), reAuto.ReplaceAllString(stem(p), "")+"_"+h.sim.newID()+e)
}

// merge starts the job that merges disks which no checkpoint needs any more, if there are any; it runs whether the
// machine runs or not [D: online merge since Server 2012; G: job type 50].
func (m *machine) merge() {
	if m.merging || !m.mergeable(true) {
		return
	}
	m.merging = true
	j := m.h.prepareJob(jobSpec{kind: jtMerge, name: "Merge", caption: "Merging Virtual Hard Disks", vm: m})
	m.cs.Set("OperationalStatus", []any{11, opMerging}).Set("StatusDescriptions", []any{"In service", "Merging disks"})
	j.finish = func() *fail {
		m.merging = false
		if m.busy == nil {
			m.vacate()
		}
		if m.h.vms[m.id] != m {
			return nil
		}
		m.mergeable(false)
		if m.mergeable(true) {
			return &fail{code: rvInUse, text: "Background disk merge failed: the process cannot access the file because it is being used by another process. (0x80070020)"}
		}
		return nil
	}
	m.h.launch(j)
}

// heldByOther reports whether another running machine depends on a file.
func (m *machine) heldByOther(p string) bool {
	for _, h := range m.h.sim.hosts {
		if h != m.h && h.fs(p) != m.h.fs(p) {
			continue
		}
		for _, o := range h.order {
			if s := o.state(); o != m && s != stOff && s != stSaved && o.reads(p) {
				return true
			}
		}
	}
	return false
}

// mergeable merges or, when only asked, reports whether there is something to merge. Automatic disks that nothing uses are
// removed. A disk with only one child, an automatic disk, takes in that child. A disk with several children stays unchanged.
func (m *machine) mergeable(ask bool) bool {
	h, found := m.h, false
	for {
		used := map[string]*cimx.Instance{}
		ours := map[string]bool{}
		for _, c := range append([]*config{m.cfg}, m.configs()...) {
			for _, d := range c.disks() {
				used[key(hostResource(d))] = d
				l, _ := h.chain(hostResource(d))
				for _, p := range l {
					ours[key(p)] = true
				}
			}
		}
		for p := range m.left {
			if h.file(p) == nil {
				delete(m.left, p)
				continue
			}
			ours[p] = true
		}
		again := false
		for p := range ours {
			f := h.file(p)
			if f == nil || f.disk == nil || used[p] != nil {
				continue
			}
			// Hyper-V knows the children that this machine made, not those that others based on the file: it merges under them,
			// which breaks them, unless a running one keeps the file open (believed).
			kids := slices.DeleteFunc(h.children(p), func(k string) bool { return !ours[key(k)] })
			if !ask && m.heldByOther(p) {
				continue
			}
			auto := reAuto.MatchString(stem(f.path)) && strings.HasPrefix(ext(f.path), ".avhd")
			switch {
			case len(kids) == 0 && auto:
				if ask {
					return true
				}
				h.drop(p)
				delete(m.left, p)
				again = true
			case len(kids) == 1 && ours[key(kids[0])] && strings.HasPrefix(ext(kids[0]), ".avhd"):
				if ask {
					return true
				}
				kid := kids[0]
				h.fold([]string{kid, f.path})
				delete(m.left, key(kid))
				for _, c := range append([]*config{m.cfg}, m.configs()...) {
					for _, d := range c.disks() {
						if key(hostResource(d)) == key(kid) {
							d.Set("HostResource", []any{f.path})
						}
					}
				}
				again = true
			}
			if again {
				break
			}
		}
		found = found || again
		if !again {
			return found
		}
	}
}

// configs are the settings of the checkpoints.
func (m *machine) configs() []*config {
	out := make([]*config, len(m.snaps))
	for n, s := range m.snaps {
		out[n] = s.cfg
	}
	return out
}

package xapisim

import "time"

// The garbage collector of an SR follows libs/sm/cleanup.py of xapi-project/sm. VDI.destroy only wakes it and answers. After a pause
// (_gcLoopPause) it removes hidden images without children, merges a hidden image into its parent if it is the parent's only child
// (isCoalesceable), and a leaf likewise (isLeafCoalesceable): the leaf takes the place of its parent and keeps its uuid.
// sm_config:vhd-parent of the merged image's children is changed, and the merged image's VDI is removed. The keys gc, coalesce and
// leaf-coalesce of an SR's other_config, and leaf-coalesce of a VDI's, switch it off with "false". The pool reports no hidden image as
// busy, and shows no task of the calls that woke it.

// baseName is the name of hidden images.
const baseName = "base copy"

// kickGC starts the garbage collector after its pause.
func (s *Sim) kickGC(sr *object) {
	if s.cfg.GCPause < 0 {
		s.collect(sr)
		return
	}
	if s.collecting[sr.ref] || s.ctx.Err() != nil {
		return
	}
	s.collecting[sr.ref] = true
	s.wg.Go(func() {
		t := time.NewTimer(s.cfg.GCPause)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.collecting, sr.ref)
		if !sr.gone {
			s.collect(sr)
		}
	})
}

// collect merges until there is no work left.
func (s *Sim) collect(sr *object) {
	if sr.entry("other_config", "gc") == "false" {
		return
	}
	for s.collectOne(sr) {
	}
	s.account(sr)
}

func (s *Sim) collectOne(sr *object) bool {
	children := map[string][]*object{}
	var hidden []*object
	for _, r := range sr.refs("VDIs") {
		v := s.look("VDI", r)
		if p := v.entry("sm_config", "vhd-parent"); p != "" {
			children[p] = append(children[p], v)
		}
		if isHidden(v) {
			hidden = append(hidden, v)
		}
	}
	for _, h := range hidden {
		kids := children[h.str("uuid")]
		switch {
		case len(kids) == 0:
			s.dropHidden(h)
			return true
		case len(kids) > 1 || sr.entry("other_config", "coalesce") == "false":
		case isHidden(kids[0]):
			for _, grandchild := range children[kids[0].str("uuid")] {
				s.put(grandchild, "sm_config", "vhd-parent", h.str("uuid"))
			}
			s.dropHidden(kids[0])
			return true
		case leafMerges(sr, kids[0]):
			if p := h.entry("sm_config", "vhd-parent"); p != "" {
				s.put(kids[0], "sm_config", "vhd-parent", p)
			} else {
				s.drop(kids[0], "sm_config", "vhd-parent")
			}
			s.dropHidden(h)
			return true
		}
	}
	return false
}

func isHidden(v *object) bool { return !v.is("managed") && v.str("name_label") == baseName }

// leafMerges reports whether a leaf may take its parent's place (gatherLeafCoalesceable).
func leafMerges(sr, v *object) bool {
	return sr.entry("other_config", "leaf-coalesce") != "false" && v.entry("other_config", "leaf-coalesce") != "false" &&
		v.str("on_boot") != "reset" && !v.is("allow_caching")
}

func (s *Sim) dropHidden(v *object) {
	delete(s.disks, v.ref)
	s.remove(v)
}

package hvsim

import (
	"fmt"
	"strings"
	"time"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/wql"
)

// addCIMV2 adds the classes of root\cimv2 that describe the host [D: the Win32_* pages].
func (h *Host) addCIMV2() {
	v, c := h.cimv2, h.cfg
	now := h.sim.now()
	ed := editions[c.Edition]
	caption := ed.caption
	if strings.Contains(caption, "%") {
		year := 2022
		switch {
		case c.Build >= 26100:
			year = 2025
		case c.Build < 14393+1:
			year = 2016
		case c.Build < 20348:
			year = 2019
		}
		caption = fmt.Sprintf(caption, year)
	}
	product := 3 // server
	if c.Edition.client() {
		product = 1
	}
	h.os = v.add(v.new("Win32_OperatingSystem").Set("Name", caption+`|C:\Windows|\Device\Harddisk0\Partition4`).Set("Caption", caption).
		Set("CreationClassName", "Win32_OperatingSystem").Set("CSName", c.Name).Set("Version", fmt.Sprintf("10.0.%d", c.Build)).Set("BuildNumber", fmt.Sprint(c.Build)).
		Set("OperatingSystemSKU", ed.sku).Set("ProductType", product).Set("OSArchitecture", "64-bit").Set("Status", "OK").
		Set("LastBootUpTime", cimx.Datetime(now.Add(-24*time.Hour))).Set("LocalDateTime", cimx.Datetime(now)).Set("InstallDate", cimx.Datetime(now.Add(-720*time.Hour))).
		Set("TotalVisibleMemorySize", c.MemoryMB*1024).Set("FreePhysicalMemory", (c.MemoryMB-2048)*1024).Set("SystemDrive", "C:"))
	role := 2 // standalone server
	if c.Edition.client() {
		role = 0
	}
	cs := v.new("Win32_ComputerSystem").Set("Name", c.Name).Set("DNSHostName", c.Name).Set("Domain", "WORKGROUP").Set("Workgroup", "WORKGROUP").
		Set("DomainRole", role).Set("PartOfDomain", false).Set("Manufacturer", "Simulated").Set("Model", "hvsim").Set("SystemType", "x64-based PC").
		Set("NumberOfLogicalProcessors", c.Processors).Set("NumberOfProcessors", c.NUMANodes).Set("TotalPhysicalMemory", c.MemoryMB<<20).
		Set("HypervisorPresent", !c.NoHyperV).Set("Status", "OK")
	if h.sim.cfg.Cluster != nil {
		cs.Set("PartOfDomain", true).Set("Domain", "cluster.test").Set("DomainRole", 3)
	}
	v.add(cs)
	v.add(v.new("Win32_ComputerSystemProduct").Set("Name", "hvsim").Set("Vendor", "Simulated").Set("IdentifyingNumber", fmt.Sprintf("HV-%04d", h.index+1)).Set("Version", "1").
		Set("Caption", "Computer System Product").Set("UUID", h.sim.newID()))
	for n := range c.NUMANodes {
		// With the hypervisor running these three read false, whatever the processor has (believed).
		on := c.NoHyperV
		v.add(v.new("Win32_Processor").Set("DeviceID", fmt.Sprintf("CPU%d", n)).Set("Name", c.CPU.Model).Set("Manufacturer", c.CPU.Vendor).
			Set("Architecture", 9).Set("AddressWidth", 64).Set("NumberOfCores", max(1, c.Processors/c.NUMANodes/2)).Set("NumberOfLogicalProcessors", c.Processors/c.NUMANodes).
			Set("SecondLevelAddressTranslationExtensions", on && !c.NoSLAT).Set("VMMonitorModeExtensions", on).Set("VirtualizationFirmwareEnabled", on).
			Set("MaxClockSpeed", 2000).Set("SocketDesignation", fmt.Sprintf("CPU %d", n)))
	}
	v.virtual[v.ns.Class("Win32_LogicalDisk")] = virtual{all: func() []*cimx.Instance {
		var used uint64
		for _, f := range h.files.files {
			used += f.bytes()
		}
		size := c.DiskMB << 20
		return []*cimx.Instance{v.new("Win32_LogicalDisk").Set("DeviceID", "C:").Set("Name", "C:").Set("DriveType", 3).Set("FileSystem", "NTFS").
			Set("Size", size).Set("FreeSpace", size-min(size, used)).Set("VolumeName", "")}
	}}
	v.virtual[v.ns.Class("CIM_DataFile")] = virtual{all: h.dataFiles, byKey: func(r cimx.Ref) *cimx.Instance { return h.dataFile(h.file(r.Value("Name"))) }, find: h.findDataFile}
}

// dataFile shows a file as CIM_DataFile [D: CIM_DataFile; its Name is the full path]. It shows no file on a share [D: "Only
// instances of files on local fixed disks will be returned"]; cluster volumes count as local (believed). Names are in lower case on
// some hosts, and as stored on others [O: object paths printed in several public projects].
func (h *Host) dataFile(f *file) *cimx.Instance {
	if f == nil || strings.HasPrefix(f.path, `\\`) {
		return nil
	}
	p := f.path
	if !h.cfg.StoredCase {
		p = strings.ToLower(p)
	}
	return h.cimv2.new("CIM_DataFile").Set("Name", p).Set("Caption", p).Set("FileName", stem(p)).Set("Extension", strings.TrimPrefix(ext(p), ".")).
		Set("FileSize", f.bytes()).Set("Drive", strings.ToLower(f.path[:2])).Set("Path", strings.ToLower(dir(f.path)[2:])+`\`).
		Set("CreationClassName", "CIM_LogicalFile").Set("CSName", h.cfg.Name).Set("Status", "OK").Set("Readable", true).Set("Writeable", true)
}

func (h *Host) dataFiles() []*cimx.Instance {
	var out []*cimx.Instance
	for _, fs := range []*disks{h.files, h.sim.shared} {
		for _, f := range fs.files {
			if i := h.dataFile(f); i != nil {
				out = append(out, i)
			}
		}
	}
	return out
}

func (h *Host) findDataFile(where wql.Expr) ([]*cimx.Instance, bool) {
	if c, good := where.(wql.Compare); good && c.Op == "=" && strings.EqualFold(c.Name, "Name") {
		if s, good := c.Value.(string); good {
			if i := h.dataFile(h.file(s)); i != nil {
				return []*cimx.Instance{i}, true
			}
			return nil, true
		}
	}
	return nil, false
}

// Return values of CIM_DataFile's methods [D: "Copy method of the CIM_DataFile class"].
const (
	fileOK, fileDenied, fileFailed, fileExists, fileBadName, fileNotFound = 0, 2, 8, 10, 16, 12
)

func init() {
	remove := func(c *call) uint32 {
		f := c.h.file(c.obj.Str("Name"))
		if f == nil {
			return fileNotFound
		}
		if c.h.open(f.path) {
			return 15 // sharing violation
		}
		c.h.drop(f.path)
		return fileOK
	}
	place := func(move bool) handler {
		return func(c *call) uint32 {
			f, to := c.h.file(c.obj.Str("Name")), c.str("FileName")
			switch {
			case f == nil:
				return fileNotFound
			case !absolute(to):
				return fileBadName
			case c.h.file(to) != nil:
				return fileExists
			case c.h.open(f.path):
				return 15
			}
			if move {
				c.h.move(f.path, to)
			} else {
				c.h.copyFile(f.path, c.h, to)
			}
			return fileOK
		}
	}
	handle("CIM_DataFile", map[string]handler{"Delete": remove, "Copy": place(false), "Rename": place(true)})
}

// open reports whether a running machine has the file open.
func (h *Host) open(p string) bool {
	if h.writer(p) != nil || h.held[key(p)].After(h.sim.now()) {
		return true
	}
	for _, hh := range h.sim.hosts {
		if hh != h && hh.fs(p) != h.fs(p) {
			continue
		}
		for _, m := range hh.order {
			if s := m.state(); s != stOff && s != stSaved && m.reads(p) {
				return true
			}
		}
	}
	return false
}

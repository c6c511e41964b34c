package xen

import (
	"strconv"
	"strings"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// A xapi before 25.10 does not report the numbers of PCI functions. It
// reports their names in the PCI ID database.

const idsDetail = "the server reports no product IDs of devices; xapi 25.10 and later do"

// classNames are the names of classes whose functions may be useful to a
// machine, or that the host needs, with class and subclass.
var classNames = map[string]uint32{
	"SCSI storage controller": 0x0100, "IDE interface": 0x0101, "Floppy disk controller": 0x0102, "IPI bus controller": 0x0103, "RAID bus controller": 0x0104,
	"ATA controller": 0x0105, "SATA controller": 0x0106, "Serial Attached SCSI controller": 0x0107, "Non-Volatile memory controller": 0x0108,
	"Mass storage controller": 0x0180,
	"Ethernet controller":     0x0200, "Infiniband controller": 0x0207, "Fabric controller": 0x0208, "Network controller": 0x0280,
	"VGA compatible controller": 0x0300, "XGA compatible controller": 0x0301, "3D controller": 0x0302, "Display controller": 0x0380,
	"Multimedia video controller": 0x0400, "Multimedia audio controller": 0x0401, "Audio device": 0x0403, "Multimedia controller": 0x0480,
	"Serial controller": 0x0700, "Parallel controller": 0x0701, "Modem": 0x0703, "Communication controller": 0x0780,
	"Co-processor": 0x0b40, "FireWire (IEEE 1394)": 0x0c00, "USB controller": 0x0c03, "Encryption controller": 0x1080,
	"Signal processing controller": 0x1180, "Processing accelerators": 0x1200,
}

// classCode returns the 24 bits of a function's class, and whether it is
// known.
func (p pciRec) classCode() (uint32, bool) {
	if c, err := strconv.ParseUint(p.ClassID, 16, 32); err == nil { // class and subclass, "0300"
		return uint32(c) << 8, true
	}
	if strings.HasSuffix(p.ClassName, " bridge") {
		return 0x068000, true
	}
	c, ok := classNames[p.ClassName]
	return c << 8, ok
}

var vendorNames = map[string]string{
	"Intel Corporation": "8086", "NVIDIA Corporation": "10de", "Advanced Micro Devices, Inc. [AMD/ATI]": "1002", "Advanced Micro Devices, Inc. [AMD]": "1022",
	"Mellanox Technologies": "15b3", "Broadcom Inc. and subsidiaries": "14e4", "Broadcom Corporation": "14e4", "Broadcom Limited": "14e4",
	"Broadcom / LSI": "1000", "LSI Logic / Symbios Logic": "1000", "Solarflare Communications": "1924", "Samsung Electronics Co Ltd": "144d",
	"Matrox Electronics Systems Ltd.": "102b", "ASPEED Technology, Inc.": "1a03", "QLogic Corp.": "1077", "Emulex Corporation": "10df",
}

// vendor and product return four hex digits, or nothing where they are not
// known.
func (p pciRec) vendor() string {
	if p.VendorID == "" {
		return vendorNames[p.VendorName]
	}
	return hex4(p.VendorID)
}

func (p pciRec) product() string {
	if p.DeviceID == "" {
		return ""
	}
	return hex4(p.DeviceID)
}

// idsHint explains why no product matches where the server reports none.
func (inv *inventory) idsHint(r hypervisor.DeviceRequest) string {
	if r.Vendor == "" && r.Product == "" {
		return ""
	}
	for _, p := range inv.pcis {
		if p.DeviceID == "" {
			return ": " + idsDetail
		}
	}
	return ""
}

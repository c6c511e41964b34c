package imagefile

import "io"

// Detect returns the format that the first size bytes of r have, by their
// header, and Raw if there is none. An error means that r could not be read.
//
// Never call it for a file that a guest may have written: whoever writes to a
// raw disk can put any header there. It is for a vendor's download. A
// compressed file is Raw to it, see [DetectCompression].
func Detect(r io.ReaderAt, size int64) (Format, error) {
	f := &file{r: r, size: size, format: Raw}
	head := make([]byte, max(0, min(size, 512)))
	if err := f.read(head, 0, "header"); err != nil {
		return 0, err
	}
	begins := func(s string) bool { return len(head) >= len(s) && string(head[:len(s)]) == s }
	switch {
	case begins(qcowMagic):
		return QCOW2, nil
	case begins(vmdkMagic), begins("COWD"), begins("# Disk DescriptorFile"):
		return VMDK, nil
	case begins(vhdxMagic):
		return VHDX, nil
	case begins(vhdCookie):
		return VHD, nil
	case len(head) == 512 && string(head[257:262]) == "ustar":
		return OVA, nil
	}
	if size >= 1024 {
		var foot [8]byte
		if err := f.read(foot[:], size-512, "footer"); err != nil {
			return 0, err
		}
		if string(foot[:]) == vhdCookie {
			return VHD, nil
		}
	}
	return Raw, nil
}

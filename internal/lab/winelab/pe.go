package winelab

import "encoding/binary"

// forwarder makes a 64-bit Windows DLL without code that exports one function and forwards it to another DLL's
// ("ADVAPI32.SystemFunction036"). [Microsoft's PE Format: .edata section, Export Address Table, forwarder RVA]
func forwarder(dll, function, to string) []byte {
	const rva, raw, headers = 0x1000, 0x200, 0x200
	le := binary.LittleEndian

	// The export directory, its three tables of one entry each, and the strings.
	const dirSize = 40
	eat, names, ordinals := rva+dirSize, rva+dirSize+4, rva+dirSize+8
	text := rva + dirSize + 12
	put := map[string]int{}
	var strings []byte
	for _, s := range []string{dll, function, to} {
		put[s] = text + len(strings)
		strings = append(append(strings, s...), 0)
	}
	var edata []byte
	for _, v := range []int{0, 0, 0, put[dll], 1, 1, 1, eat, names, ordinals} {
		edata = le.AppendUint32(edata, uint32(v))
	}
	edata = le.AppendUint32(edata, uint32(put[to])) // a location inside the directory makes it a forwarder
	edata = le.AppendUint32(edata, uint32(put[function]))
	edata = le.AppendUint16(edata, 0)
	edata = le.AppendUint16(edata, 0)
	edata = append(edata, strings...)

	b := make([]byte, 0x40)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	b = append(b, "PE\x00\x00"...)
	const optional = 112 + 16*8
	// COFF header: x64, one section, DLL | executable | large addresses.
	b = le.AppendUint16(b, 0x8664)
	b = le.AppendUint16(b, 1)
	b = append(b, make([]byte, 12)...)
	b = le.AppendUint16(b, optional)
	b = le.AppendUint16(b, 0x2022)
	// Optional header.
	o := make([]byte, optional)
	le.PutUint16(o, 0x20b) // PE32+
	le.PutUint32(o[8:], raw)
	le.PutUint64(o[24:], 0x6b0000000)
	le.PutUint32(o[32:], 0x1000)
	le.PutUint32(o[36:], raw)
	le.PutUint16(o[40:], 6)
	le.PutUint16(o[48:], 6)
	le.PutUint32(o[56:], 0x2000)
	le.PutUint32(o[60:], headers)
	le.PutUint16(o[68:], 3)
	le.PutUint16(o[70:], 0x100) // no execute
	le.PutUint64(o[72:], 0x100000)
	le.PutUint64(o[80:], 0x1000)
	le.PutUint64(o[88:], 0x100000)
	le.PutUint64(o[96:], 0x1000)
	le.PutUint32(o[108:], 16)
	le.PutUint32(o[112:], rva)
	le.PutUint32(o[116:], uint32(len(edata)))
	b = append(b, o...)
	// Section header: read-only data.
	s := make([]byte, 40)
	copy(s, ".edata")
	le.PutUint32(s[8:], uint32(len(edata)))
	le.PutUint32(s[12:], rva)
	le.PutUint32(s[16:], raw)
	le.PutUint32(s[20:], headers)
	le.PutUint32(s[36:], 0x40000040)
	b = append(b, s...)
	b = append(b, make([]byte, headers-len(b))...)
	b = append(b, edata...)
	return append(b, make([]byte, headers+raw-len(b))...)
}

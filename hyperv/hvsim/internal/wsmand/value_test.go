package wsmand

import "testing"

func TestDatetimes(t *testing.T) {
	for in, want := range map[string][2]string{
		"20261123140506.000007+060": {"Datetime", "2026-11-23T13:05:06.000007Z"},
		"20130309030625.000000+000": {"Datetime", "2013-03-09T03:06:25Z"},
		"00000001020304.500000:000": {"Interval", "P1DT2H3M4.500000S"},
		"garbage":                   {"CIM_DateTime", "garbage"},
	} {
		if elem, out := isoDatetime(in); elem != want[0] || out != want[1] {
			t.Errorf("%s: %s %s", in, elem, out)
		}
	}
	if s := cimDatetime("2026-11-23T13:05:06.000007Z"); s != "20261123130506.000007+000" {
		t.Error(s)
	}
}

func TestURIs(t *testing.T) {
	for in, want := range map[string][2]string{
		wmiBase + "root/virtualization/v2/Msvm_X": {"root/virtualization/v2", "Msvm_X"}, wmiBase + "root/cimv2/*": {"root/cimv2", "*"}, "wmi/root/cimv2/Win32_X": {"root/cimv2", "Win32_X"},
		"http://example.test/x": {}, wmiBase + "root": {}, wmiBase + "root/": {},
	} {
		ns, class, ok := splitURI(in)
		if ns != want[0] || class != want[1] || ok != (want[0] != "") {
			t.Errorf("%s: %s %s %v", in, ns, class, ok)
		}
	}
}

package vfiolab

import (
	"slices"
	"strings"
	"testing"
)

func TestLastList(t *testing.T) {
	const one = "LIST\nPCI 0000:00:00.0 0x8086:0x1237 class=0x060000\nREADY\n"
	const two = "LIST\r\nPCI 0000:00:00.0 0x8086:0x1237 class=0x060000\r\nPCI 0000:00:05.0 0x1234:0x1111 class=0x038000\r\nREADY\r\n"
	for text, want := range map[string][]string{
		"":                    nil,
		"booting":             nil,
		one:                   {"8086:1237"},
		"noise\n" + one + two: {"8086:1237", "1234:1111"},
		two + one:             {"8086:1237"},
		one + "LIST\nPCI":     nil, // half of a newer one
		two[:len(two)-9]:      nil,
	} {
		got, err := lastList(text)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("lastList(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestSampleOnCard(t *testing.T) {
	got, err := sampleOnCard("a\n" + sampleParent + "\nb")
	if err != nil || !strings.Contains(got, "0x1002, 0x5046") || strings.Contains(got, "&mdpy_dev,") {
		t.Errorf("sampleOnCard = %q, %v", got, err)
	}
	for _, text := range []string{"", sampleParent + sampleParent} {
		if got, err := sampleOnCard(text); err == nil {
			t.Errorf("sampleOnCard(%q) = %q, want an error", text, got)
		}
	}
}

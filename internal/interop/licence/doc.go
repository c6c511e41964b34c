// Package licence has only a test: what the files NOTICE say about the licences
// of other modules is what those modules' own files say. It is part of make
// release-check, since it may have to fetch modules that no test needs.
package licence

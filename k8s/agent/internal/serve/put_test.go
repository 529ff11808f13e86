package serve

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"envfarm/agent/internal/wire"
)

func TestLinksMayNotLeadOut(t *testing.T) {
	for _, c := range []struct {
		name, link string
		fine       bool
	}{
		{"l", "a", true}, {"l", "a/b", true}, {"l", ".", true}, {"l", "./a", true},
		{"d/l", "..", true}, {"d/l", "../a", true}, {"d/e/l", "../../a", true},
		{"l", "..", false}, {"l", "../a", false}, {"d/l", "../..", false}, {"d/e/l", "../../../a", false},
		{"l", "/a", false}, {"l", "", false},
		// Each is inside by its letters alone, and outside once "a" is a link upwards.
		{"d/l", "a/..", false}, {"d/l", "a/../b", false},
	} {
		if err := checkLink(c.name, c.name, c.link); (err == nil) != c.fine {
			t.Errorf("%s -> %s: %v", c.name, c.link, err)
		}
	}
}

func TestPutBounds(t *testing.T) {
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	for _, name := range []string{"a", "b", "c"} {
		if err := out.WriteHeader(&tar.Header{Name: name, Size: 100, Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		bytes   int64
		entries int
		fine    bool
	}{{300, 3, true}, {299, 3, false}, {300, 2, false}} {
		count, err := unpack(putRequest{t.TempDir(), c.bytes, c.entries}, bytes.NewReader(archive.Bytes()))
		if (err == nil) != c.fine || (c.fine && count != 3) {
			t.Errorf("%+v: %d, %v", c, count, err)
		}
		var fault *wire.Fault
		if err != nil && (!errors.As(err, &fault) || fault.Reason != "archive_refused") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// FuzzUnpack: whatever two entries say, nothing appears beside the target and nothing special within it. The entries
// are fuzzed, not the bytes: those would nearly all fail at the checksum.
func FuzzUnpack(f *testing.F) {
	f.Add("a/b", "", byte(tar.TypeReg), "a/c", "", byte(tar.TypeReg))
	f.Add("l", ".", byte(tar.TypeSymlink), "l/x", "", byte(tar.TypeReg))
	f.Add("l", "..", byte(tar.TypeSymlink), "l/../x", "", byte(tar.TypeDir))
	f.Add("d/", "", byte(tar.TypeDir), "d", "d", byte(tar.TypeSymlink))
	f.Add("p", "", byte(tar.TypeFifo), "h", "p", byte(tar.TypeLink))
	top := f.TempDir()
	f.Fuzz(func(t *testing.T, name1, link1 string, kind1 byte, name2, link2 string, kind2 byte) {
		var archive bytes.Buffer
		out := tar.NewWriter(&archive)
		for _, header := range []tar.Header{
			{Name: name1, Linkname: link1, Typeflag: kind1, Mode: 0o755},
			{Name: name2, Linkname: link2, Typeflag: kind2, Mode: 0o755},
		} {
			if out.WriteHeader(&header) != nil {
				t.Skip("no tar can hold this")
			}
		}
		if err := out.Close(); err != nil {
			t.Skip("no tar can hold this")
		}
		target := filepath.Join(top, "target")
		_, _ = unpack(putRequest{target, 1 << 20, 100}, &archive) // refusal is fine; escape is not
		beside, err := os.ReadDir(top)
		if err != nil || len(beside) != 1 {
			t.Fatalf("beside the target: %v %v", beside, err)
		}
		err = filepath.WalkDir(target, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
				t.Fatalf("%s is %s", path, entry.Type())
			}
			if err == nil && entry.Type() == fs.ModeSymlink {
				// One that leads nowhere, or in circles, leads not out.
				if end, err := filepath.EvalSymlinks(path); err == nil && end != target && !strings.HasPrefix(end, target+"/") {
					t.Fatalf("%s leads to %s", path, end)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(target); err != nil {
			t.Fatal(err)
		}
	})
}

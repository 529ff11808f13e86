package serve

import (
	"errors"
	"os"
	"strings"
	"time"
)

// target is the folder an archive is unpacked into. It keeps the folders on the way to the last entry open, because the
// next entry is most often a neighbour.
type target struct {
	root  *os.Root
	open  []step // from the root down
	dirs  []dirTime
	index map[string]int // into dirs
}

type step struct {
	name string // of the folder, below its parent
	root *os.Root
}

// dirTime is set at the end, for entries put into a folder change it.
type dirTime struct {
	name  string
	mode  os.FileMode
	mtime time.Time
}

func openTarget(path string) (*target, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &target{root: root, index: make(map[string]int)}, nil
}

func (t *target) close() {
	t.cut(0)
	_ = t.root.Close()
}

// cut closes the open folders below depth.
func (t *target) cut(depth int) {
	for _, old := range t.open[depth:] {
		_ = old.root.Close()
	}
	t.open = t.open[:depth]
}

// forget closes the open folders at and below name, which is about to be replaced.
func (t *target) forget(name string) {
	for depth, part := range strings.Split(name, "/") {
		if depth >= len(t.open) || t.open[depth].name != part {
			return
		}
		if depth == strings.Count(name, "/") {
			t.cut(depth)
			return
		}
	}
}

// parent opens the folder that holds name, making what is missing. A link or a file on the way is refused.
func (t *target) parent(name string) (*os.Root, string, error) {
	parts := strings.Split(name, "/")
	folders, base := parts[:len(parts)-1], parts[len(parts)-1]
	depth := 0
	for depth < len(folders) && depth < len(t.open) && t.open[depth].name == folders[depth] {
		depth++
	}
	t.cut(depth)
	here := t.root
	if depth > 0 {
		here = t.open[depth-1].root
	}
	for _, folder := range folders[depth:] {
		next, err := enterDir(here, folder, name)
		if err != nil {
			return nil, "", err
		}
		t.open = append(t.open, step{folder, next})
		here = next
	}
	return here, base, nil
}

// enterDir opens the real folder base below parent, and makes it where nothing is there.
func enterDir(parent *os.Root, base, shown string) (*os.Root, error) {
	if err := parent.Mkdir(base, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	before, err := parent.Lstat(base)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, refused(shown, "goes through %q, which is no folder", base)
	}
	next, err := parent.OpenRoot(base)
	if err != nil {
		return nil, err
	}
	// A link put there since the look would have been followed.
	after, err := next.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = refused(shown, "goes through %q, which has just been replaced", base)
	}
	if err != nil {
		_ = next.Close()
		return nil, err
	}
	return next, nil
}

// makeDir makes or keeps a folder; anything else of that name is replaced.
func (t *target) makeDir(parent *os.Root, base, name string, mode os.FileMode, mtime time.Time) error {
	info, err := parent.Lstat(base)
	if err == nil && !info.IsDir() {
		err = clear(parent, base)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := parent.Mkdir(base, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if at, known := t.index[name]; known {
		t.dirs[at] = dirTime{name, mode, mtime}
		return nil
	}
	t.index[name] = len(t.dirs)
	t.dirs = append(t.dirs, dirTime{name, mode, mtime})
	return nil
}

// stampDirs gives folders their modes and times, the deepest last made first: a read-only folder must not lock out the
// entries that come after it.
func (t *target) stampDirs() error {
	t.cut(0)
	for index := len(t.dirs) - 1; index >= 0; index-- {
		dir := t.dirs[index]
		info, err := t.root.Lstat(dir.name)
		if errors.Is(err, os.ErrNotExist) || (err == nil && !info.IsDir()) {
			continue // a later entry has replaced it
		}
		if err != nil {
			return err
		}
		if err := t.root.Chtimes(dir.name, time.Time{}, dir.mtime); err != nil {
			return err
		}
		if err := t.root.Chmod(dir.name, dir.mode); err != nil {
			return err
		}
	}
	return nil
}

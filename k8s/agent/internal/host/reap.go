package host

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	reapBudget    = 5 * time.Second
	retryInterval = 10 * time.Millisecond
	// deadlineGrace is how long a detached box's own agent has to end it before the reaper does.
	deadlineGrace = 10 * time.Second
	// unrecordedAge is how long a folder may be without a record: its maker writes that within milliseconds.
	unrecordedAge = 10 * time.Second
)

// Reap ends boxes whose owner is gone and removes their cgroups and folders. One of:
//
//	envfarm-agent reap --boxes DIR --provider ID   wait until standard input ends, then reap that provider's boxes
//	envfarm-agent reap --boxes DIR --stale         reap boxes of owners that no longer live, at once
//	envfarm-agent reap --box DIR --wait            wait until the box ends or passes its deadline, then reap it
//	envfarm-agent reap --box DIR                   end the box now and reap it
//
// Boxes are reaped side by side, each within five seconds. Exit status 1 if anything could not be removed.
func Reap(args []string) int {
	flags := flag.NewFlagSet("reap", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	boxes := flags.String("boxes", "", "folder of boxes")
	provider := flags.String("provider", "", "provider whose boxes are reaped once standard input ends")
	stale := flags.Bool("stale", false, "reap boxes of dead owners")
	box := flags.String("box", "", "folder of one box")
	wait := flags.Bool("wait", false, "wait until the box has ended")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var err error
	switch {
	case *box != "" && *boxes == "":
		if *wait {
			awaitEnd(*box)
		}
		err = reapBox(*box)
	case *boxes != "" && *provider != "":
		// Nothing is ever written: the read ends when the last copy of the other end does, with its process.
		_, _ = io.Copy(io.Discard, os.Stdin)
		err = reapWhere(*boxes, func(r *record) bool { return r.Provider == *provider && !r.Detached })
	case *boxes != "" && *stale:
		err = errors.Join(reapWhere(*boxes, isStale), removeUnrecorded(*boxes))
	default:
		err = errors.New("one of --box DIR, --boxes DIR --provider ID, --boxes DIR --stale is needed")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "reap: %v\n", err)
		return 1
	}
	return 0
}

// isStale says that nobody is left who would clean up: the owner is dead, or a detached box has ended.
func isStale(r *record) bool {
	if !r.here() {
		return r.overdue()
	}
	if r.Detached {
		return !r.Monitor.alive() && !r.Owner.alive()
	}
	return !r.Owner.alive()
}

// removeUnrecorded removes folders that have had no record for a while: their makers were killed between making the
// folder and writing the record, or between removing the two.
func removeUnrecorded(boxes string) error {
	dirs, err := filepath.Glob(filepath.Join(boxes, "box-*"))
	if err != nil {
		return err
	}
	var failed []error
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < unrecordedAge {
			continue // gone meanwhile, or perhaps being made
		}
		if _, err := os.Lstat(filepath.Join(dir, "box.json")); errors.Is(err, os.ErrNotExist) {
			failed = append(failed, os.RemoveAll(dir))
		}
	}
	return errors.Join(failed...)
}

func reapWhere(boxes string, wanted func(*record) bool) error {
	dirs, err := filepath.Glob(filepath.Join(boxes, "box-*", "box.json"))
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	results := make([]error, len(dirs))
	for i, path := range dirs {
		dir := filepath.Dir(path)
		r, err := readRecord(dir)
		if err != nil || !wanted(r) {
			continue // gone meanwhile, half written by a living owner, or not ours
		}
		group.Add(1)
		go func() {
			defer group.Done()
			results[i] = reapBox(dir)
		}()
	}
	group.Wait()
	return errors.Join(results...)
}

// awaitEnd returns when the box's processes are gone or its deadline is well past.
func awaitEnd(dir string) {
	for {
		r, err := readRecord(dir)
		if err != nil || (!r.Monitor.alive() && !r.Init.alive()) {
			return
		}
		if r.overdue() {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// reapBox ends what is left of a box and removes its cgroups, then its folder: the record goes last, so that a
// reaper killed half way leaves something for the next one to find.
func reapBox(dir string) error {
	r, err := readRecord(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	deadline := time.Now().Add(reapBudget)
	if r.here() {
		r.Init.kill() // process 1 of a pid namespace takes every other process in it along
		r.Monitor.kill()
	}
	var failed []error
	for _, cgroup := range r.Cgroups {
		if err := removeCgroup(cgroup, deadline); err != nil {
			failed = append(failed, err)
		}
	}
	for r.here() && (r.Init.alive() || r.Monitor.alive()) && time.Now().Before(deadline) {
		time.Sleep(retryInterval)
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	return removeFolder(dir)
}

// removeCgroup kills what is in a cgroup and removes it. The kernel answers EBUSY for a moment after the last exit.
func removeCgroup(path string, deadline time.Time) error {
	for {
		err := syscall.Rmdir(path)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			// The shared parent goes with its last box; while others are there the kernel refuses.
			_ = syscall.Rmdir(filepath.Dir(path))
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s: %w", path, err)
		}
		killMembers(path)
		time.Sleep(retryInterval)
	}
}

func killMembers(cgroup string) {
	data, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, line := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func removeFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if entry.Name() != "box.json" {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(dir)
}

package host

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary stand in for the agent: a test runs itself as `launch`.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "launch" {
		os.Exit(Launch(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func launch(t *testing.T, args ...string) (string, error) {
	t.Helper()
	command := exec.Command(os.Args[0], append([]string{"launch"}, args...)...)
	output, err := command.CombinedOutput()
	return string(output), err
}

func TestLaunchGivesUpPrivileges(t *testing.T) {
	args := []string{"--core", "0", "--fsize", "4096", "--nofile", "64", "--", "/bin/sh", "-c",
		"id -u; ulimit -n; grep -E 'NoNewPrivs|CapEff|CapAmb' /proc/self/status"}
	want := strconv.Itoa(os.Geteuid())
	if os.Geteuid() == 0 {
		args = append([]string{"--uid", "61000", "--gid", "61000"}, args...)
		want = "61000"
	}
	output, err := launch(t, args...)
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, part := range []string{want + "\n64\n", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"} {
		if !strings.Contains(output, part) {
			t.Errorf("no %q in %s", part, output)
		}
	}
}

func TestLaunchRefusesRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	for _, args := range [][]string{
		{},
		{"--uid", "0", "--gid", "0"},
		{"--uid", "-1", "--gid", "-1"},
		{"--uid", "4294967295", "--gid", "4294967295"},
		{"--uid", "61000"},
	} {
		output, err := launch(t, append(args, "--", "/bin/echo", "ran")...)
		if err == nil || strings.Contains(output, "ran") || !strings.Contains(output, "launch: user") {
			t.Errorf("%v: %v, %s", args, err, output)
		}
	}
}

func TestLaunchMovesDescriptorsThatCrossOver(t *testing.T) {
	// 3 and 4 change places: a plain dup2 in either order would lose one.
	dir := t.TempDir()
	var files []*os.File
	for _, name := range []string{"three", "four"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		files = append(files, file)
	}
	args := []string{"launch", "--fd", "3:4", "--fd", "4:3", "--", "/bin/sh", "-c", "cat <&3; echo; cat <&4"}
	if os.Geteuid() == 0 {
		args = append([]string{"launch", "--uid", "61000", "--gid", "61000"}, args[1:]...)
	}
	command := exec.Command(os.Args[0], args...)
	command.ExtraFiles = files
	output, err := command.CombinedOutput()
	if err != nil || string(output) != "four\nthree" {
		t.Fatalf("%v: %q", err, output)
	}
}

func TestLaunchDiesWithTheNamedParentOnly(t *testing.T) {
	args := []string{"--die-with", "1", "--", "/bin/echo", "ran"}
	if os.Geteuid() == 0 {
		args = append([]string{"--uid", "61000", "--gid", "61000"}, args...)
	}
	if output, err := launch(t, args...); err == nil || !strings.Contains(output, "parent 1 is gone") {
		t.Fatalf("%v: %s", err, output)
	}
}

// box makes a folder with a record.
func box(t *testing.T, boxes string, r record) string {
	t.Helper()
	dir := filepath.Join(boxes, r.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"box.json": data, "start.log": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestReapStaleSparesTheLiving(t *testing.T) {
	boxes := t.TempDir()
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	start, _ := startTime(os.Getpid())
	self := process{Pid: os.Getpid(), Start: start}
	gone := process{Pid: os.Getpid(), Start: start + 1} // the number is in use, by another process
	long := time.Now().Add(-time.Hour)
	dirs := map[string]bool{ // folder -> must go
		box(t, boxes, record{ID: "box-living", Owner: self, PidSpace: space}):                                  false,
		box(t, boxes, record{ID: "box-dead", Owner: gone, PidSpace: space}):                                    true,
		box(t, boxes, record{ID: "box-detached", Owner: gone, Monitor: self, Detached: true, PidSpace: space}): false,
		box(t, boxes, record{ID: "box-ended", Owner: gone, Monitor: gone, Detached: true, PidSpace: space}):    true,
		box(t, boxes, record{ID: "box-elsewhere", Owner: gone, PidSpace: "pid:[1]"}):                           false,
		box(t, boxes, record{ID: "box-elsewhere-late", Owner: self, PidSpace: "pid:[1]", Deadline: long}):      true,
	}
	if code := Reap([]string{"--boxes", boxes, "--stale"}); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	for dir, gone := range dirs {
		if exists(dir) == gone {
			t.Errorf("%s: must go %v", filepath.Base(dir), gone)
		}
	}
}

func TestReapStaleRemovesFoldersThatNeverGotARecord(t *testing.T) {
	boxes := t.TempDir()
	old, fresh := filepath.Join(boxes, "box-old"), filepath.Join(boxes, "box-fresh")
	for _, dir := range []string{old, fresh} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(old, "box.json.tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if code := Reap([]string{"--boxes", boxes, "--stale"}); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	if exists(old) || !exists(fresh) {
		t.Errorf("old one there: %v, fresh one there: %v", exists(old), exists(fresh))
	}
}

func TestReapBoxKillsTheRecordedProcessesOnly(t *testing.T) {
	boxes := t.TempDir()
	space, _ := os.Readlink("/proc/self/ns/pid")
	victim, bystander := exec.Command("/bin/sleep", "60"), exec.Command("/bin/sleep", "60")
	for _, command := range []*exec.Cmd{victim, bystander} {
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	start, _ := startTime(victim.Process.Pid)
	other, _ := startTime(bystander.Process.Pid)
	dir := box(t, boxes, record{
		ID: "box-one", PidSpace: space, Init: process{victim.Process.Pid, start},
		Monitor: process{bystander.Process.Pid, other + 1},
	})
	ended := make(chan error, 1)
	go func() { ended <- victim.Wait() }()
	if code := Reap([]string{"--box", dir}); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	if err := <-ended; err == nil {
		t.Error("the recorded process ended by itself")
	}
	if bystander.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("a process that is not the recorded one was killed")
	}
	if exists(dir) {
		t.Error("the folder is still there")
	}
}

func TestReapWaitsForItsOwnersEnd(t *testing.T) {
	boxes := t.TempDir()
	dir := box(t, boxes, record{ID: "box-one", Provider: "p"})
	other := box(t, boxes, record{ID: "box-two", Provider: "q"})
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = read
	defer func() { os.Stdin = stdin }()
	done := make(chan int)
	go func() { done <- Reap([]string{"--boxes", boxes, "--provider", "p"}) }()
	time.Sleep(50 * time.Millisecond)
	if !exists(dir) {
		t.Fatal("reaped while the owner lived")
	}
	write.Close()
	if code := <-done; code != 0 || exists(dir) || !exists(other) {
		t.Fatalf("exit status %d, own box there %v, the other's %v", code, exists(dir), exists(other))
	}
}

func TestReapUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"--boxes", "x"}, {"--nonsense"}} {
		if Reap(args) == 0 {
			t.Errorf("%v is taken", args)
		}
	}
	if Reap([]string{"--box", filepath.Join(t.TempDir(), "absent")}) != 0 {
		t.Error("a box that is gone is an error")
	}
}

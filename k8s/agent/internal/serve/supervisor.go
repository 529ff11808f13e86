package serve

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"envfarm/agent/internal/child"
)

// supervisor is the agent's side of one child process: its pipes and its end.
type supervisor struct {
	pid     int
	stdin   *os.File
	stdout  *os.File
	stderr  *os.File
	report  *os.File
	control *os.File
	status  *os.File
	exited  <-chan syscall.WaitStatus
}

func startSupervisor(reaper *reaper) (*supervisor, error) {
	var ours, theirs [6]int
	var opened []int
	abandon := func(err error) (*supervisor, error) {
		for _, fd := range opened {
			syscall.Close(fd)
		}
		return nil, err
	}
	for index := range ours {
		var ends [2]int
		if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
			return abandon(err)
		}
		opened = append(opened, ends[0], ends[1])
		if index == 0 || index == child.ControlFD {
			theirs[index], ours[index] = ends[0], ends[1]
		} else {
			ours[index], theirs[index] = ends[0], ends[1]
		}
		// Our ends go through the poller; theirs stay blocking, as a command expects.
		if err := syscall.SetNonblock(ours[index], true); err != nil {
			return abandon(err)
		}
	}
	files := make([]uintptr, len(theirs))
	for index, fd := range theirs {
		files[index] = uintptr(fd)
	}
	// One thread of Go code is all a supervisor needs, and the subject's process limit counts threads.
	attr := &syscall.ProcAttr{Files: files, Env: []string{"GOMAXPROCS=1", "GOGC=off"}, Sys: &syscall.SysProcAttr{Setsid: true}}
	pid, exited, err := reaper.start([]string{"envfarm-agent", "child"}, attr)
	if err != nil {
		return abandon(err)
	}
	for _, fd := range theirs {
		syscall.Close(fd)
	}
	file := func(index int, name string) *os.File { return os.NewFile(uintptr(ours[index]), name) }
	return &supervisor{
		pid: pid, exited: exited,
		stdin: file(0, "stdin"), stdout: file(1, "stdout"), stderr: file(2, "stderr"),
		report: file(child.ReportFD, "report"), control: file(child.ControlFD, "control"), status: file(child.StatusFD, "status"),
	}, nil
}

// give hands over the request. It fails when the supervisor is dead already; nothing has run then.
func (s *supervisor) give(request child.Request) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	message := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text)))
	_, err = s.control.Write(append(message, text...))
	return err
}

// kill asks the supervisor to kill the command and its descendants.
func (s *supervisor) kill() {
	_, _ = s.control.Write([]byte{'K'}) // EPIPE: it has ended
}

// await returns what the supervisor said at its end; ok is false when it died without a word.
func (s *supervisor) await() (status child.Status, ok bool) {
	text, err := io.ReadAll(s.status)
	ok = err == nil && json.Unmarshal(text, &status) == nil
	return status, ok
}

func (s *supervisor) close() {
	for _, file := range []*os.File{s.stdin, s.stdout, s.stderr, s.report, s.control, s.status} {
		_ = file.Close()
	}
}

// bench keeps one supervisor started ahead, so that a command does not wait for a program start. It also means that, as
// long as commands run one at a time, no supervisor starts while a subject could look.
type bench struct {
	reaper *reaper
	mutex  sync.Mutex
	spare  *supervisor
}

// prepare starts the spare where there is none.
func (b *bench) prepare() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.spare == nil {
		// A failure shows again, and is reported, when a command needs a supervisor.
		b.spare, _ = startSupervisor(b.reaper)
	}
}

// take hands out a supervisor that has accepted request.
func (b *bench) take(request child.Request) (*supervisor, error) {
	b.mutex.Lock()
	spare := b.spare
	b.spare = nil
	b.mutex.Unlock()
	if spare != nil {
		if err := spare.give(request); err == nil {
			b.reaper.kill(spare.pid, syscall.SIGCONT) // a command before this one may have stopped it
			return spare, nil
		}
		spare.close() // it was killed while it waited
	}
	fresh, err := startSupervisor(b.reaper)
	if err != nil {
		return nil, err
	}
	if err := fresh.give(request); err != nil {
		fresh.close()
		return nil, err
	}
	return fresh, nil
}

// waitExit waits until the supervisor has been reaped.
func (s *supervisor) waitExit(patience time.Duration) (syscall.WaitStatus, bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case state := <-s.exited:
		return state, true
	case <-timer.C:
		return 0, false
	}
}

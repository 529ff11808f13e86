// Package child is the supervisor: a process between the agent and one command. It is the subreaper of everything the
// command starts, so nothing that was double-forked into a session of its own outlives the command.
package child

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"envfarm/agent/internal/procs"
)

// Descriptors a supervisor is started with. 0 to 3 are the command's own.
const (
	ReportFD  = 3
	ControlFD = 4 // in: the request (4 bytes big-endian length, JSON); then any byte, or its end, means kill
	StatusFD  = 5 // out: Status as JSON, once all is over
)

// prctl options that package syscall lacks.
const (
	prSetNoNewPrivs     = 38
	prSetChildSubreaper = 36
	prSetDumpable       = 4
)

// Undumpable keeps other processes of the same user from tracing this one and from opening its /proc files.
func Undumpable() error { return prctl(prSetDumpable, 0) }

// BecomeSubreaper makes orphaned descendants this process's children.
func BecomeSubreaper() error { return prctl(prSetChildSubreaper, 1) }

func prctl(option, value uintptr) error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, option, value, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// Main runs one command and returns the exit code of the supervisor itself, which says nothing about the command.
func Main() int {
	// no_new_privs belongs to a thread; the command is forked from this one.
	runtime.LockOSThread()
	syscall.CloseOnExec(ControlFD)
	syscall.CloseOnExec(StatusFD)
	for _, err := range []error{Undumpable(), BecomeSubreaper(), prctl(prSetNoNewPrivs, 1)} {
		if err != nil {
			return fail(err)
		}
	}
	request, err := receive(ControlFD)
	if err == io.EOF {
		return 0 // the agent had no work for this one
	}
	if err != nil {
		return fail(err)
	}
	if !request.ReportFD {
		syscall.Close(ReportFD)
	}
	status := run(request)
	text, err := json.Marshal(status)
	if err != nil {
		return fail(err)
	}
	for len(text) > 0 {
		count, err := syscall.Write(StatusFD, text)
		if err != nil && err != syscall.EINTR {
			return fail(err)
		}
		text = text[max(count, 0):]
	}
	syscall.Close(StatusFD) // the agent need not wait for this process to be taken down
	return 0
}

func fail(err error) int {
	fmt.Fprintf(os.Stderr, "envfarm-agent: the supervisor of a command failed: %v\n", err)
	return 1
}

func receive(fd int) (Request, error) {
	var request Request
	var header [4]byte
	source := descriptor(fd)
	if _, err := io.ReadFull(source, header[:]); err != nil {
		return request, err
	}
	text := make([]byte, binary.BigEndian.Uint32(header[:]))
	if _, err := io.ReadFull(source, text); err != nil {
		return request, err
	}
	return request, json.Unmarshal(text, &request)
}

// descriptor reads with plain system calls: os.File would start the poller for two short reads.
type descriptor int

func (d descriptor) Read(target []byte) (int, error) {
	for {
		count, err := syscall.Read(int(d), target)
		if err == syscall.EINTR {
			continue
		}
		if count == 0 && err == nil && len(target) > 0 {
			return 0, io.EOF
		}
		return max(count, 0), err
	}
}

func run(request Request) Status {
	if err := enter(request.Cwd); err != nil {
		errno := err
		if path, ok := err.(*os.PathError); ok {
			errno = path.Err
		}
		status := refusal("working directory "+request.Cwd, errno)
		return status
	}
	pid, err := spawn(request)
	if err != nil {
		return refusal(request.Argv[0], err)
	}
	abandonStreams()
	tree := &family{main: pid}
	go tree.watch()
	return tree.wait()
}

// abandonStreams gives up the command's descriptors, so that their readers see the end when the command's side closes.
func abandonStreams() {
	syscall.Close(ReportFD)
	// Never leave 0 to 2 free: the next file opened would become a standard stream.
	const pathOnly = 0x200000
	inert, err := syscall.Open("/", pathOnly|syscall.O_CLOEXEC, 0)
	if err != nil {
		inert = ControlFD
	}
	for fd := 0; fd <= 2; fd++ {
		_ = syscall.Dup3(inert, fd, syscall.O_CLOEXEC)
	}
}

// family is the command and all that descends from it.
type family struct {
	main   int
	mutex  sync.Mutex
	ended  bool // main has been reaped
	killed bool // the agent's kill came first
	hunt   sync.Once
}

// watch turns a byte or the end of the control pipe into a kill. The end means that the agent is dead.
func (f *family) watch() {
	_, _ = descriptor(ControlFD).Read(make([]byte, 1))
	f.mutex.Lock()
	if !f.ended {
		f.killed = true
		_ = syscall.Kill(-f.main, syscall.SIGKILL) // its group and session leader at once; the hunt finds the rest
	}
	f.mutex.Unlock()
	f.exterminate()
}

// exterminate kills descendants, in rounds, until wait has reaped the last.
func (f *family) exterminate() {
	f.hunt.Do(func() {
		go func() {
			for round := 0; ; round++ {
				// An unreadable /proc is met by the agent's grace period: it kills this supervisor and sweeps.
				_, _ = procs.KillBelow(os.Getpid(), nil)
				if round < 1000 {
					time.Sleep(time.Millisecond) // against what forks faster than it dies, only speed helps
				} else {
					time.Sleep(20 * time.Millisecond) // something uninterruptible; do not burn a core on it
				}
			}
		}()
	})
}

// wait reaps until there is nothing left to reap. With a subreaper that proves that no descendant is left: a living
// one has a chain of living ancestors up to a child of ours.
func (f *family) wait() Status {
	status := Status{Started: true}
	for {
		var state syscall.WaitStatus
		options := 0
		if f.ended {
			options = syscall.WNOHANG // most commands leave nothing behind; look before hunting
		}
		pid, err := syscall.Wait4(-1, &state, options, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			break
		}
		if pid == 0 {
			f.exterminate()
			if pid, err = syscall.Wait4(-1, &state, 0, nil); err != nil {
				continue
			}
		}
		if pid == f.main && !f.ended {
			f.mutex.Lock()
			f.ended = true
			status.Killed = f.killed
			f.mutex.Unlock()
			if state.Signaled() {
				status.Signal = int(state.Signal())
			} else {
				status.Code = state.ExitStatus()
			}
		}
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage); err == nil {
		status.CPUSec = seconds(usage.Utime) + seconds(usage.Stime)
		status.MaxRSSKB = int64(usage.Maxrss)
	}
	return status
}

func seconds(value syscall.Timeval) float64 {
	return float64(value.Sec) + float64(value.Usec)/1e6
}

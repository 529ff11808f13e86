package child

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// plan is everything the forked child needs, laid out beforehand: between fork and execve it may not allocate, lock
// or grow its stack, because it is a copy of one thread of a Go program.
type plan struct {
	paths   []*byte // tried in order
	argv    []*byte
	envv    []*byte
	limits  []resourceLimit
	problem int // write end of the pipe that execve closes, or that carries its errno
	errno   [1]byte
	zero    [64]byte // a sigaction that means SIG_DFL, and an empty signal mask
}

const (
	sigBlock   = 0
	sigSetmask = 2
	sigsetSize = 8
)

// spawn starts the command with descriptors 0 to 3 as they are, its own session, limits and default signals. The error
// is execve's.
//
// Why not os/exec: it cannot set rlimits between fork and execve, and both other ways are worse. Limits on the
// supervisor itself would let a fork bomb starve it of threads, and a second re-execution of this program would double
// the price of a command and let the command's environment steer a Go runtime.
func spawn(request Request) (int, error) {
	next, err := lay(request)
	if err != nil {
		return 0, err
	}
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer syscall.Close(ends[0])
	next.problem = ends[1]
	pid, errno := fork(next)
	syscall.Close(ends[1])
	if errno != 0 {
		return 0, errno
	}
	var answer [1]byte
	for {
		count, err := syscall.Read(ends[0], answer[:])
		if err == syscall.EINTR {
			continue
		}
		if count == 1 {
			_, _ = syscall.Wait4(pid, nil, 0, nil) // the failed child; its errno is the news
			return 0, syscall.Errno(answer[0])
		}
		return pid, nil
	}
}

func lay(request Request) (*plan, error) {
	next := &plan{}
	var err error
	if next.limits, err = request.Limits.table(); err != nil {
		return nil, err
	}
	if next.argv, err = syscall.SlicePtrFromStrings(request.Argv); err != nil {
		return nil, err
	}
	if next.envv, err = syscall.SlicePtrFromStrings(request.Env); err != nil {
		return nil, err
	}
	for _, path := range candidates(request.Argv[0], request.Env) {
		pointer, err := syscall.BytePtrFromString(path)
		if err != nil {
			return nil, err
		}
		next.paths = append(next.paths, pointer)
	}
	return next, nil
}

func fork(next *plan) (int, syscall.Errno) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old uint64
	all = ^all
	// Blocked signals keep Go's handlers from running in the child before it has reset them.
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigBlock, uintptr(unsafe.Pointer(&all)),
		uintptr(unsafe.Pointer(&old)), sigsetSize, 0, 0)
	pid, errno := forkAndRun(next)
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&old)), 0, sigsetSize, 0, 0)
	runtime.KeepAlive(next)
	return pid, errno
}

// forkAndRun returns in the parent only. In the child everything up to execve is raw system calls.
//
//go:noinline
//go:norace
//go:nosplit
func forkAndRun(next *plan) (int, syscall.Errno) {
	// A plain fork: the copy keeps the supervisor's own "not dumpable" until execve, so no process of the same user can
	// look in.
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	for number := uintptr(1); number <= 64; number++ {
		// SIGKILL and SIGSTOP refuse, which is right.
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, number, uintptr(unsafe.Pointer(&next.zero)), 0, sigsetSize, 0, 0)
	}
	syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	for index := range next.limits {
		limit := &next.limits[index]
		_, _, errno = syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, limit.resource,
			uintptr(unsafe.Pointer(&limit.value)), 0, 0, 0)
		if errno != 0 {
			break
		}
	}
	if errno == 0 {
		syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&next.zero)), 0, sigsetSize, 0, 0)
		errno = syscall.ENOENT
		for index := range next.paths {
			_, _, failed := syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(next.paths[index])),
				uintptr(unsafe.Pointer(&next.argv[0])), uintptr(unsafe.Pointer(&next.envv[0])))
			// As execvp: a name that is missing in this folder may be in the next; one without permission is remembered.
			if failed == syscall.ENOENT || failed == syscall.ENOTDIR {
				continue
			}
			errno = failed
			if failed != syscall.EACCES {
				break
			}
		}
	}
	next.errno[0] = byte(errno)
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(next.problem), uintptr(unsafe.Pointer(&next.errno)), 1)
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// enter makes cwd the working directory that the command inherits.
func enter(cwd string) error {
	if cwd == "" {
		return nil
	}
	return os.Chdir(cwd)
}

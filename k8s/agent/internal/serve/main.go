package serve

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"envfarm/agent/internal/child"
)

// Exit codes of the agent. A box that ended by itself says why.
const (
	exitAsked     = 0
	exitUsage     = 2
	exitDeadline  = 3
	exitHeartbeat = 4
	exitBroken    = 5
)

type options struct {
	listenFD  int
	listen    string
	tokenFile string
	tokenEnv  string
	deadline  float64
	heartbeat float64
	dropEnv   string
}

// Main serves one box until it is asked to end, its deadline or the end of its heartbeat, and kills all that is in it.
func Main(args []string) int {
	var o options
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.IntVar(&o.listenFD, "listen-fd", -1, "inherited descriptor of a listening socket")
	flags.StringVar(&o.listen, "listen", "", "tcp:ADDRESS to listen on; needs --token-file")
	flags.StringVar(&o.tokenFile, "token-file", "", "file with the token that every request must carry; it is deleted")
	flags.StringVar(&o.tokenEnv, "token-env", "", "variable with the token; commands do not get it")
	flags.Float64Var(&o.deadline, "deadline-sec", 0, "life of the box")
	flags.Float64Var(&o.heartbeat, "heartbeat-sec", 0, "end the box after this long without a request; 0: never")
	flags.StringVar(&o.dropEnv, "drop-env", "", "commands do not get variables whose names begin with this")
	if err := flags.Parse(args); err != nil {
		return exitUsage
	}
	o.cleanEnv()
	if err := protect(); err != nil {
		return complain(exitBroken, err)
	}
	token, err := o.token()
	if err != nil {
		return complain(exitUsage, err)
	}
	listener, err := o.listener(token)
	if err != nil {
		return complain(exitUsage, err)
	}
	if o.deadline <= 0 {
		return complain(exitUsage, errors.New("--deadline-sec must be positive"))
	}
	return NewServer(token).run(listener, o)
}

func complain(code int, err error) int {
	fmt.Fprintf(os.Stderr, "envfarm-agent: %v\n", err)
	return code
}

// protect takes the agent out of its subjects' reach: they have the same user.
func protect() error {
	// Whatever else was inherited must reach no command.
	const closeRange, closeOnExec = 436, 4
	if _, _, errno := syscall.RawSyscall(closeRange, 3, ^uintptr(0)>>32, closeOnExec); errno != 0 {
		if errno != syscall.ENOSYS {
			return fmt.Errorf("inherited descriptors cannot be marked close-on-exec: %w", errno)
		}
		for fd := 3; fd < 1024; fd++ { // a kernel before 5.11
			syscall.CloseOnExec(fd)
		}
	}
	if err := child.Undumpable(); err != nil {
		return err
	}
	if err := child.BecomeSubreaper(); err != nil {
		return err
	}
	syscall.Umask(0o022)
	// Notify, not Ignore: an ignored signal would be ignored by every command too.
	var ending []os.Signal
	for number := syscall.Signal(1); number <= 64; number++ {
		if number != syscall.SIGCHLD && number != syscall.SIGURG {
			ending = append(ending, number)
		}
	}
	if os.Getpid() == 1 {
		signal.Notify(make(chan os.Signal, 1), ending...)
		return shedFaultHandlers()
	}
	return nil
}

// shedFaultHandlers restores the default action of the signals that Go turns into a crash even when they are sent from
// outside with a forged cause. The kernel drops a default-action signal sent to a PID 1 from within its namespace; a
// real fault still ends it.
func shedFaultHandlers() error {
	var defaultAction [64]byte
	for _, number := range []syscall.Signal{
		syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGSYS,
		syscall.SIGSTKFLT,
	} {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(number),
			uintptr(unsafe.Pointer(&defaultAction)), 0, 8, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	return nil
}

// cleanEnv forgets what whoever started us put into every environment: a kubelet adds the services of its namespace.
func (o options) cleanEnv() {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); o.dropEnv != "" && strings.HasPrefix(name, o.dropEnv) {
			_ = os.Unsetenv(name)
		}
	}
}

// token reads the token and deletes its file, or forgets its variable: a subject could read them as well. What the
// kernel still tells of our environment is out of its reach, for we are not dumpable.
func (o options) token() (string, error) {
	var text string
	switch {
	case o.tokenFile != "":
		content, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return "", err
		}
		if err := os.Remove(o.tokenFile); err != nil {
			return "", fmt.Errorf("the token file cannot be removed, and commands could read it: %w", err)
		}
		text = string(content)
	case o.tokenEnv != "":
		text = os.Getenv(o.tokenEnv)
		_ = os.Unsetenv(o.tokenEnv)
	default:
		return "", nil
	}
	token := strings.TrimSpace(text)
	if len(token) < 16 {
		return "", errors.New("the token is shorter than 16 characters")
	}
	return token, nil
}

func (o options) listener(token string) (net.Listener, error) {
	if o.listenFD >= 3 && o.listen == "" {
		file := os.NewFile(uintptr(o.listenFD), "listener")
		defer file.Close() // FileListener works on a copy
		return net.FileListener(file)
	}
	address, isTCP := strings.CutPrefix(o.listen, "tcp:")
	switch {
	case !isTCP || o.listenFD >= 0:
		return nil, errors.New("give either --listen-fd N (3 or more) or --listen tcp:ADDRESS")
	case token == "":
		return nil, errors.New("--listen needs --token-file or --token-env: every command in the box can reach the port")
	}
	return net.Listen("tcp", address)
}

// run serves until the box's end and returns the agent's exit code.
func (s *Server) run(listener net.Listener, o options) int {
	debug.SetGCPercent(50)
	if os.Getpid() != 1 {
		// A plain process (tests, a shared container) must take its commands along when it is told to end.
		ask := make(chan os.Signal, 1)
		signal.Notify(ask, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		go func() { s.end("signal " + (<-ask).String()) }()
	}
	go s.accept(listener)
	go s.bench.prepare()
	code, why := s.wait(o)
	fmt.Fprintf(os.Stderr, "envfarm-agent: the box ends: %s\n", why)
	_ = listener.Close()
	return s.finish(code)
}

func (s *Server) wait(o options) (int, string) {
	deadline := time.NewTimer(seconds(o.deadline))
	beat := seconds(o.heartbeat)
	var missed <-chan time.Time
	if beat > 0 {
		missed = time.After(beat)
	}
	for {
		select {
		case why := <-s.over:
			if strings.HasPrefix(why, "the listener failed") {
				return exitBroken, why
			}
			return exitAsked, why
		case <-deadline.C:
			return exitDeadline, "its deadline has come"
		case <-missed:
			if s.sinceBeat() >= beat {
				return exitHeartbeat, "its heartbeat has stopped"
			}
			missed = time.After(beat - s.sinceBeat())
		}
	}
}

func seconds(value float64) time.Duration {
	const most = 1 << 31
	return time.Duration(min(value, most) * float64(time.Second))
}

// finish kills everything in the box. As PID 1 that is every process of the namespace, and the kernel kills what is
// left when this one exits; elsewhere it is what descends from the agent.
func (s *Server) finish(code int) int {
	if os.Getpid() == 1 {
		_ = syscall.Kill(-1, syscall.SIGKILL) // ESRCH: there is nothing else
		return code
	}
	s.reaper.killAll()
	if err := s.reaper.sweep(grace); err != nil {
		return complain(exitBroken, err)
	}
	return code
}

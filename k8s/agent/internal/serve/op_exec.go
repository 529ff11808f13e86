package serve

import (
	"sync"
	"sync/atomic"
	"time"

	"envfarm/agent/internal/wire"
)

// opExec answers "exec". Without a key the command lives no longer than its client; with one it runs on and the result
// waits in the journal.
func (s *Server) opExec(conn *wire.Conn, payload []byte) error {
	var request execRequest
	if err := decode(payload, &request); err != nil {
		return err
	}
	if err := request.check(); err != nil {
		return err
	}
	if request.Key == "" {
		return s.execOnce(conn, &request, nil)
	}
	kept, fresh, err := s.journal.open(request.Key, request.identity())
	if err != nil {
		return err
	}
	if fresh {
		return s.execOnce(conn, &request, kept)
	}
	defer beatBack(conn, func() {})()
	<-kept.done
	if err := s.journal.replay(conn, kept); err != nil {
		return err
	}
	discard(conn) // the retry's own input
	return nil
}

// execOnce runs the command, with its output to the client and, where there is one, to the record.
func (s *Server) execOnce(conn *wire.Conn, request *execRequest, kept *record) error {
	s.counters.execs.Add(1)
	s.counters.running.Add(1)
	var clientGone atomic.Bool
	var run atomic.Pointer[running]
	lose := func() {
		clientGone.Store(true)
		if current := run.Load(); current != nil && kept == nil {
			current.cancel()
		}
	}
	emit := func(kind byte, data []byte) {
		if kept != nil {
			kept.add(kind, data)
		}
		if !clientGone.Load() && conn.Write(kind, data) != nil {
			lose()
		}
	}
	defer beatBack(conn, lose)()
	inputOver := make(chan struct{})
	started := func(current *running) {
		run.Store(current)
		if kept != nil {
			s.journal.attach(kept, current)
		}
		conn.Claimed = true
		go s.feed(conn, current, inputOver, lose)
		if clientGone.Load() {
			lose()
		}
	}
	before := oomKills()
	result, err := s.execute(request, emit, started)
	if err == nil {
		result.OOMKilled = oomKills() > before
	}
	if kept != nil {
		s.journal.close(kept, result, err)
	}
	if s.counters.running.Add(-1) == 0 {
		go s.bench.prepare()
	}
	if err != nil {
		return err
	}
	if conn.WriteJSON(wire.Result, result) != nil {
		return nil // the client is gone; there is nobody to tell
	}
	// Closing on input that the command left unread would reset the connection, and the result with it.
	select {
	case <-inputOver:
	case <-time.After(writePatience):
	}
	return nil
}

// feed passes the client's data frames to the command's standard input, until the client is gone. It closes inputOver
// once nothing more is to come.
func (s *Server) feed(conn *wire.Conn, run *running, inputOver chan struct{}, lose func()) {
	stdin := run.supervisor.stdin
	over := sync.OnceFunc(func() {
		_ = stdin.Close()
		close(inputOver)
	})
	for {
		kind, data, err := conn.Read()
		if err != nil {
			over()
			lose()
			return
		}
		s.touch()
		switch kind {
		case wire.Data:
			_, _ = stdin.Write(data) // EPIPE: the command does not read its input, which is its own affair
		case wire.End:
			over()
		}
	}
}

// beatBack sends keep-alives until the returned function is called. A client that has vanished makes a write fail: then
// lose is called.
func beatBack(conn *wire.Conn, lose func()) func() {
	ticker := time.NewTicker(keepAlive)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				if conn.Write(wire.KeepAlive, nil) != nil {
					lose()
					_ = conn.Close()
					return
				}
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(stop)
	}
}

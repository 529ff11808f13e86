package serve

import (
	"errors"
	"os"
	"sync"
	"time"
)

// capture forwards one stream within a limit. The head goes out as it arrives; of the rest a tail is kept and goes out
// at the end. What lies between is counted and thrown away.
type capture struct {
	emit  func([]byte)
	head  int64 // bytes of head still allowed
	room  int   // most bytes of tail
	tail  []byte
	start int // where the tail begins, once it has wrapped
	cut   int64
}

// newCapture keeps the first and the last half of limit; headOnly keeps just the first limit bytes.
func newCapture(limit int64, headOnly bool, emit func([]byte)) *capture {
	limit = max(limit, 0)
	if headOnly {
		return &capture{emit: emit, head: limit}
	}
	return &capture{emit: emit, head: limit - limit/2, room: int(limit / 2)}
}

func (c *capture) write(data []byte) {
	if take := min(int64(len(data)), c.head); take > 0 {
		c.head -= take
		c.emit(data[:take])
		data = data[take:]
	}
	if excess := len(data) - c.room; excess > 0 {
		// More than a whole tail: everything kept so far goes, and the chunk's own start.
		c.cut += int64(excess) + int64(len(c.tail))
		data, c.tail, c.start = data[excess:], c.tail[:0], 0
	}
	if grow := min(len(data), c.room-len(c.tail)); grow > 0 {
		c.tail = append(c.tail, data[:grow]...)
		data = data[grow:]
	}
	c.cut += int64(len(data))
	for len(data) > 0 {
		count := copy(c.tail[c.start:], data)
		data = data[count:]
		c.start = (c.start + count) % len(c.tail)
	}
}

func (c *capture) finish() {
	for _, part := range [][]byte{c.tail[c.start:], c.tail[:c.start]} {
		if len(part) > 0 {
			c.emit(part)
		}
	}
	c.tail = nil
}

var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

const (
	drainPause = 100 * time.Millisecond
	drainLimit = 4 << 20
)

// pump reads a pipe to its end. Once ended is closed nobody who should may still write, so an open but silent pipe (a
// descriptor smuggled to another command) is given up, as is one that keeps talking beyond what a pipe can hold.
func pump(source *os.File, ended <-chan struct{}, sink *capture) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-ended:
			_ = source.SetReadDeadline(time.Now().Add(drainPause))
		case <-stop:
		}
	}()
	buffer := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buffer)
	draining, drained := false, 0
	for drained < drainLimit {
		if draining {
			_ = source.SetReadDeadline(time.Now().Add(drainPause))
		}
		count, err := source.Read(buffer[:])
		sink.write(buffer[:count])
		switch {
		case err == nil:
			if draining {
				drained += count
			}
		case errors.Is(err, os.ErrDeadlineExceeded) && !draining:
			draining = true
		default:
			return // the end, or silence
		}
	}
}

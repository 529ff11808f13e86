// Package wire is the agent's protocol: one connection per request, frames of type, length and payload.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// MaxFrame is the most payload bytes of one frame.
const MaxFrame = 1 << 20

// Frame types.
const (
	Query     = 'Q' // client: JSON request
	Data      = 'D' // both: stdin, or tar bytes
	End       = 'E' // client: no more data
	KeepAlive = 'H' // both: ignored but for its being alive
	Stdout    = 'O' // server
	Stderr    = 'R' // server
	Report    = 'P' // server: bytes of the report pipe
	Result    = 'X' // server: JSON result, last frame
	Failure   = 'F' // server: JSON {reason, message}, last frame
)

// Fault is a failed request: there is no result. Reason is a slug of envfarm.core.errors.Reason.
type Fault struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (f *Fault) Error() string { return f.Reason + ": " + f.Message }

// Faultf makes a Fault.
func Faultf(reason, format string, args ...any) *Fault {
	return &Fault{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Conn frames a connection. Writes may come from several goroutines, reads from one.
type Conn struct {
	Claimed bool // another goroutine reads from it for good
	Ended   bool // the client has said that no more data comes
	raw     net.Conn
	reader  *bufio.Reader
	header  [5]byte
	mutex   sync.Mutex
	patient time.Duration
}

// New wraps raw. A frame that the peer does not take within patience fails the write.
func New(raw net.Conn, patience time.Duration) *Conn {
	return &Conn{raw: raw, reader: bufio.NewReaderSize(raw, 32<<10), patient: patience}
}

// Close closes the connection; blocked reads and writes return.
func (c *Conn) Close() error { return c.raw.Close() }

// ReadDeadline bounds the coming reads; the zero time lifts the bound.
func (c *Conn) ReadDeadline(at time.Time) { _ = c.raw.SetReadDeadline(at) }

// Read returns the next frame. The payload is the caller's.
func (c *Conn) Read() (byte, []byte, error) {
	if _, err := io.ReadFull(c.reader, c.header[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(c.header[1:])
	if size > MaxFrame {
		return 0, nil, Faultf("protocol", "a frame of %d bytes is larger than %d", size, MaxFrame)
	}
	kind := c.header[0]
	c.Ended = c.Ended || kind == End
	if size == 0 {
		return kind, nil, nil
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(c.reader, payload); err != nil {
		return 0, nil, err
	}
	return kind, payload, nil
}

// Write sends payload in as many frames as it needs, at least one.
func (c *Conn) Write(kind byte, payload []byte) error {
	for {
		part := payload[:min(len(payload), MaxFrame)]
		payload = payload[len(part):]
		if err := c.frame(kind, part); err != nil {
			return err
		}
		if len(payload) == 0 {
			return nil
		}
	}
}

func (c *Conn) frame(kind byte, payload []byte) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var header [5]byte
	header[0] = kind
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload)))
	if err := c.raw.SetWriteDeadline(time.Now().Add(c.patient)); err != nil {
		return err
	}
	buffers := net.Buffers{header[:], payload}
	_, err := buffers.WriteTo(c.raw)
	return err
}

// WriteJSON sends value as one frame.
func (c *Conn) WriteJSON(kind byte, value any) error {
	payload, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(payload) > MaxFrame {
		return Faultf("protocol", "an answer of %d bytes is larger than a frame", len(payload))
	}
	return c.frame(kind, payload)
}

// DataReader reads the payloads of Data frames as one stream that ends at End.
type DataReader struct {
	Conn  *Conn
	Touch func()
	rest  []byte
	ended bool
}

func (d *DataReader) Read(target []byte) (int, error) {
	for len(d.rest) == 0 {
		if d.ended {
			return 0, io.EOF
		}
		kind, payload, err := d.Conn.Read()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		d.Touch()
		switch kind {
		case Data:
			d.rest = payload
		case End:
			d.ended = true
		case KeepAlive:
		default:
			return 0, Faultf("protocol", "frame type %q is not expected in a data stream", kind)
		}
	}
	count := copy(target, d.rest)
	d.rest = d.rest[count:]
	return count, nil
}

package serve

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"envfarm/agent/internal/wire"
)

// Bounds of an archive where the request names none.
const (
	defaultPutBytes   = 8 << 30
	defaultPutEntries = 1 << 20
	maxNameBytes      = 4096
)

type putRequest struct {
	Path         string `json:"path"`
	LimitBytes   int64  `json:"limit_bytes"`
	LimitEntries int    `json:"limit_entries"`
}

// opPut answers "put": the data frames are a tar, unpacked below the path. A refused archive may have been unpacked in
// part.
func (s *Server) opPut(conn *wire.Conn, payload []byte) error {
	request := putRequest{LimitBytes: defaultPutBytes, LimitEntries: defaultPutEntries}
	if err := decode(payload, &request); err != nil {
		return err
	}
	defer beatBack(conn, func() { _ = conn.Close() })()
	data := &wire.DataReader{Conn: conn, Touch: s.touch}
	entries, err := unpack(request, data)
	if err == nil {
		_, err = io.Copy(io.Discard, data) // padding after the archive's end mark
	}
	if err != nil {
		return err
	}
	return conn.WriteJSON(wire.Result, map[string]int{"entries": entries})
}

func refused(name, format string, args ...any) error {
	return wire.Faultf("archive_refused", "archive entry %q "+format, append([]any{name}, args...)...)
}

// unpack writes the archive's entries below the request's path, which is made where it is missing.
func unpack(request putRequest, data io.Reader) (int, error) {
	if err := os.MkdirAll(request.Path, 0o755); err != nil {
		return 0, err
	}
	target, err := openTarget(request.Path)
	if err != nil {
		return 0, err
	}
	defer target.close()
	archive := tar.NewReader(data)
	room := request.LimitBytes
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if err == io.EOF {
			return entries, target.stampDirs()
		}
		if errors.Is(err, tar.ErrHeader) || err == io.ErrUnexpectedEOF {
			return entries, wire.Faultf("archive_refused", "the archive is broken or cut: %v", err)
		}
		if err != nil {
			return entries, err
		}
		if entries >= request.LimitEntries {
			return entries, wire.Faultf("archive_refused", "the archive has more than %d entries", request.LimitEntries)
		}
		if room -= header.Size; header.Size < 0 || room < 0 {
			return entries, wire.Faultf("archive_refused", "the archive holds more than %d bytes", request.LimitBytes)
		}
		if err := target.add(header, archive); err != nil {
			return entries, err
		}
	}
}

// add unpacks one entry.
func (t *target) add(header *tar.Header, content io.Reader) error {
	name, err := cleanName(header)
	if err != nil {
		return err
	}
	mode := os.FileMode(header.Mode & 0o777)
	if name == "." {
		if header.Typeflag != tar.TypeDir {
			return refused(header.Name, "would replace the target itself")
		}
		return t.root.Chmod(".", mode|0o700)
	}
	parent, base, err := t.parent(name)
	if err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeReg:
		return writeFile(parent, base, mode, header, content)
	case tar.TypeDir:
		return t.makeDir(parent, base, name, mode, header.ModTime)
	case tar.TypeSymlink:
		if err := checkLink(header.Name, name, header.Linkname); err != nil {
			return err
		}
		if err := clear(parent, base); err != nil {
			return err
		}
		t.forget(name)
		return parent.Symlink(header.Linkname, base)
	}
	return refused(header.Name, "is not a file, folder or symbolic link")
}

// cleanName is the entry's path below the target, or "." for the target itself.
func cleanName(header *tar.Header) (string, error) {
	name := header.Name
	switch {
	case name == "" || strings.ContainsRune(name, 0):
		return "", refused(name, "has no usable name")
	case len(name) > maxNameBytes:
		return "", wire.Faultf("archive_refused", "an archive entry's name is longer than %d bytes", maxNameBytes)
	case strings.HasPrefix(name, "/"):
		return "", refused(name, "has an absolute name")
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", refused(name, "climbs out of its folder")
		}
	}
	for record := range header.PAXRecords {
		if strings.HasPrefix(record, "GNU.sparse.") {
			return "", refused(name, "is sparse")
		}
	}
	return path.Clean(name), nil
}

// checkLink refuses links that can lead out of the target. Only leading ".." are taken: after a name they could pass
// through another link, and be more than they seem.
func checkLink(shown, name, link string) error {
	if link == "" || strings.HasPrefix(link, "/") || strings.ContainsRune(link, 0) {
		return refused(shown, "links to %q, which is no relative path", link)
	}
	depth, climbing := strings.Count(name, "/"), true
	for _, part := range strings.Split(link, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			if depth--; depth < 0 || !climbing {
				return refused(shown, "links to %q, out of the archive", link)
			}
		default:
			climbing = false
		}
	}
	return nil
}

// writeFile always makes a new file, so that no link or shared file that was there is written through.
func writeFile(parent *os.Root, base string, mode os.FileMode, header *tar.Header, content io.Reader) error {
	if err := clear(parent, base); err != nil {
		return err
	}
	file, err := parent.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close() // its error matters, and is taken, below; a second close is harmless
	if _, err := io.Copy(file, content); err != nil {
		if err == io.ErrUnexpectedEOF {
			return wire.Faultf("archive_refused", "the archive is cut within %q", header.Name)
		}
		return err
	}
	if err := file.Chmod(mode); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return parent.Chtimes(base, time.Time{}, header.ModTime)
}

// clear removes what is at base; a folder goes with all that is in it.
func clear(parent *os.Root, base string) error {
	err := parent.Remove(base)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return parent.RemoveAll(base)
}

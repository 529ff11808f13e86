package serve

import (
	"archive/tar"
	"bufio"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"envfarm/agent/internal/wire"
)

const defaultGetBytes = 256 << 20

type getRequest struct {
	Path       string `json:"path"`
	LimitBytes int64  `json:"limit_bytes"`
}

// opGet answers "get": a tar of the path. The same content gives the same bytes: names sorted, owners and names of them
// left out, times in whole seconds. What is neither file, folder nor link is left out and counted.
func (s *Server) opGet(conn *wire.Conn, payload []byte) error {
	request := getRequest{LimitBytes: defaultGetBytes}
	if err := decode(payload, &request); err != nil {
		return err
	}
	defer beatBack(conn, func() { _ = conn.Close() })()
	buffered := bufio.NewWriterSize(frames{conn, s}, 256<<10)
	pack := &packer{out: tar.NewWriter(buffered), room: request.LimitBytes, limit: request.LimitBytes}
	if err := pack.all(request.Path); err != nil {
		return err
	}
	if err := pack.out.Close(); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	return conn.WriteJSON(wire.Result, map[string]int{"entries": pack.entries, "skipped": pack.skipped})
}

// frames writes data frames.
type frames struct {
	conn   *wire.Conn
	server *Server
}

func (f frames) Write(data []byte) (int, error) {
	if err := f.conn.Write(wire.Data, data); err != nil {
		return 0, err
	}
	f.server.touch()
	return len(data), nil
}

// packer writes a tree to a tar within a number of bytes.
type packer struct {
	out              *tar.Writer
	room, limit      int64
	entries, skipped int
}

// all packs a folder's content, or the one thing at name.
func (p *packer) all(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	folder := filepath.Dir(name)
	if info.IsDir() {
		folder = name
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	if info.IsDir() {
		return p.folder(root, "")
	}
	return p.entry(root, filepath.Base(name), filepath.Base(name))
}

// folder packs what is in the folder that dir stands for; prefix is its name in the archive.
func (p *packer) folder(dir *os.Root, prefix string) error {
	listing, err := dir.Open(".")
	if err != nil {
		return err
	}
	names, err := listing.Readdirnames(-1)
	_ = listing.Close() // opened for reading
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := p.entry(dir, name, path.Join(prefix, name)); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) entry(dir *os.Root, name, shown string) error {
	if len(shown) > maxNameBytes {
		return wire.Faultf("archive_refused", "a path longer than %d bytes cannot be packed", maxNameBytes)
	}
	info, err := dir.Lstat(name)
	if err != nil {
		return err
	}
	header := &tar.Header{Name: shown, Mode: int64(info.Mode().Perm()), ModTime: info.ModTime().Truncate(time.Second)}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return p.subfolder(dir, name, header)
	case mode.IsRegular():
		return p.file(dir, name, header)
	case mode&os.ModeSymlink != 0:
		header.Typeflag = tar.TypeSymlink
		if header.Linkname, err = dir.Readlink(name); err != nil {
			return err
		}
		return p.write(header)
	}
	p.skipped++
	return nil
}

func (p *packer) subfolder(dir *os.Root, name string, header *tar.Header) error {
	prefix := header.Name
	header.Typeflag, header.Name = tar.TypeDir, prefix+"/"
	if err := p.write(header); err != nil {
		return err
	}
	// One open folder for each level; descriptors bound the depth before the name's length does.
	next, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	defer next.Close()
	return p.folder(next, prefix)
}

func (p *packer) file(dir *os.Root, name string, header *tar.Header) error {
	// Neither a link nor a pipe put there since the look may be opened, nor block.
	file, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return wire.Faultf("path_unusable", "%q was replaced while it was read", header.Name)
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := p.write(header); err != nil {
		return err
	}
	count, err := io.Copy(p.out, io.LimitReader(file, header.Size))
	if err == nil && count < header.Size {
		err = wire.Faultf("path_unusable", "%q became shorter while it was read", header.Name)
	}
	return err
}

// write takes the entry out of the allowance, then writes its header.
func (p *packer) write(header *tar.Header) error {
	const block = 512
	if p.room -= block + (header.Size+block-1)/block*block; p.room < 0 {
		return wire.Faultf("archive_refused", "the archive would be larger than %d bytes", p.limit)
	}
	p.entries++
	return p.out.WriteHeader(header)
}

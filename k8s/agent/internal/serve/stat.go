package serve

import (
	"errors"
	"os"
	"syscall"

	"envfarm/agent/internal/wire"
)

type statResult struct {
	Exists bool    `json:"exists"`
	Kind   string  `json:"kind,omitempty"`
	Size   int64   `json:"size"`
	Mode   uint32  `json:"mode"`
	Mtime  float64 `json:"mtime"`
}

// opStat answers "stat": what is at the path, a last link not followed.
func (s *Server) opStat(conn *wire.Conn, payload []byte) error {
	var request struct {
		Path string `json:"path"`
	}
	if err := decode(payload, &request); err != nil {
		return err
	}
	info, err := os.Lstat(request.Path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return conn.WriteJSON(wire.Result, statResult{})
	}
	if err != nil {
		return err
	}
	kind := "other"
	switch mode := info.Mode(); {
	case mode.IsRegular():
		kind = "file"
	case mode.IsDir():
		kind = "dir"
	case mode&os.ModeSymlink != 0:
		kind = "symlink"
	}
	return conn.WriteJSON(wire.Result, statResult{
		Exists: true, Kind: kind, Size: info.Size(), Mode: uint32(info.Mode().Perm()),
		Mtime: float64(info.ModTime().UnixNano()) / 1e9,
	})
}

package replay

import (
	"io"
	"os"
	"path/filepath"
)

// progress counts the bytes that were read of all files of a node.
type progress struct {
	tell              func(done, total int64)
	done, told, total int64
}

// progressStep is how many bytes lie between two reports.
const progressStep = 4 << 20

func newProgress(files NodeFiles, names []string) (*progress, error) {
	p := &progress{tell: files.Progress}
	if p.tell == nil {
		return p, nil
	}
	paths := []string{files.Ledger}
	for _, name := range names {
		paths = append(paths, filepath.Join(files.Recordings, name))
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		p.total += info.Size()
	}
	return p, nil
}

func (p *progress) reader(r io.Reader) io.Reader {
	if p.tell == nil {
		return r
	}
	return progressReader{p, r}
}

type progressReader struct {
	p *progress
	r io.Reader
}

func (r progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.done += int64(n)
	if err != nil || r.p.done-r.p.told >= progressStep {
		r.p.told = r.p.done
		r.p.tell(min(r.p.done, r.p.total), r.p.total) // live files grow meanwhile
	}
	return n, err
}

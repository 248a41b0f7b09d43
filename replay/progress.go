package replay

import (
	"io"
	"sync"
)

// progress counts the bytes that were read of all files of a node. It may be
// used by several goroutines.
type progress struct {
	tell func(done, total int64)

	mu                sync.Mutex // guards what follows, and calls of tell
	done, told, total int64
}

// progressStep is how many bytes lie between two reports.
const progressStep = 4 << 20

func (p *progress) expect(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total += bytes
}

func (p *progress) add(bytes int64, end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += bytes
	if p.tell != nil && (end || p.done-p.told >= progressStep) {
		p.told = p.done
		p.tell(min(p.done, p.total), p.total) // live files grow meanwhile
	}
}

func (p *progress) reader(r io.Reader) io.Reader { return progressReader{p, r} }

type progressReader struct {
	p *progress
	r io.Reader
}

func (r progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.add(int64(n), err != nil)
	return n, err
}

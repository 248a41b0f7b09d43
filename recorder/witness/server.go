package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/recorder/tlog"

	"golang.org/x/mod/sumdb/note"
)

// LogConfig is a log that a witness follows.
type LogConfig struct {
	Origin    string
	Verifiers []note.Verifier // any one of them signs
}

// ServerOptions says whom a witness follows and where it keeps what it saw.
type ServerOptions struct {
	Dir    string // one file for each log
	Signer *Signer
	Logs   []LogConfig
	Log    *slog.Logger // default: discards

	persist func(path string, data []byte) error
}

// Server answers add-checkpoint (C2SP tlog-witness). It is an http.Handler, to be
// mounted at the submission prefix.
type Server struct {
	o    ServerOptions
	logs map[string]*followed
}

// followed is one log. Its mutex makes the check against the last checkpoint
// and persisting the next one a single step.
type followed struct {
	config LogConfig
	path   string

	mu     sync.Mutex // guards what follows
	last   tlog.Checkpoint
	failed error // persisting failed: what is on disk is not known any more
}

// NewServer reads what was cosigned before. A state file that is not signed by
// its log and by this witness is an error: it must not be taken for "never seen".
func NewServer(o ServerOptions) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.persist == nil {
		o.persist = persist
	}
	if o.Signer == nil || len(o.Logs) == 0 {
		return nil, errors.New("witness: a signer and at least one log are needed")
	}
	own, err := o.Signer.Verifier()
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, logs: map[string]*followed{}}
	for _, config := range o.Logs {
		if config.Origin == "" || len(config.Verifiers) == 0 || s.logs[config.Origin] != nil {
			return nil, fmt.Errorf("witness: log %q has no origin, no key, or is there twice", config.Origin)
		}
		f := &followed{config: config, path: statePath(o.Dir, config.Origin)}
		if f.last, err = loadState(f.path, config, own); err != nil {
			return nil, fmt.Errorf("witness: log %s: %w", config.Origin, err)
		}
		s.logs[config.Origin] = f
	}
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/add-checkpoint") {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "Use POST.", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		http.Error(w, fmt.Sprintf("The request is larger than %d bytes.", MaxRequest), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "The request could not be read.", http.StatusBadRequest)
		return
	}
	s.answer(w, s.addCheckpoint(body))
}

// outcome is an answer: a status with what the protocol says about its body.
type outcome struct {
	status     int
	size       int64  // of a 409
	signatures []byte // of a 200
	why        string
	origin     string
}

func (s *Server) answer(w http.ResponseWriter, a outcome) {
	switch a.status {
	case http.StatusOK:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write(a.signatures) // a client that went away asks again
		return
	case http.StatusConflict:
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(a.status)
		fmt.Fprintf(w, "%d\n", a.size)
	default:
		http.Error(w, a.why, a.status)
	}
	level := slog.LevelInfo
	if a.status == http.StatusUnprocessableEntity || a.status >= 500 {
		level = slog.LevelError
	}
	s.o.Log.Log(context.Background(), level, "witness refused a checkpoint", "origin", a.origin, "status", a.status, "why", a.why)
}

// addCheckpoint makes the checks in the order of the specification.
func (s *Server) addCheckpoint(body []byte) outcome {
	req, err := ParseExtension(body)
	if err != nil {
		return outcome{status: http.StatusBadRequest, why: err.Error()}
	}
	origin, _, _ := strings.Cut(string(req.Checkpoint), "\n")
	f := s.logs[origin]
	if f == nil {
		return outcome{status: http.StatusNotFound, why: "This witness does not follow that log."}
	}
	c, n, err := tlog.OpenCheckpoint(req.Checkpoint, origin, f.config.Verifiers...)
	if err != nil {
		var unverified *note.UnverifiedNoteError
		var invalid *note.InvalidSignatureError
		if errors.As(err, &unverified) || errors.As(err, &invalid) {
			return outcome{status: http.StatusForbidden, origin: origin, why: "No key of that log signed the checkpoint."}
		}
		return outcome{status: http.StatusBadRequest, origin: origin, why: err.Error()}
	}
	if req.Old > c.Size {
		return outcome{status: http.StatusBadRequest, origin: origin, why: "The old size is larger than the checkpoint."}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.extend(f, req, c, n)
}

// extend checks and persists under the log's mutex.
func (s *Server) extend(f *followed, req *Extension, c tlog.Checkpoint, n *note.Note) outcome {
	a := outcome{origin: c.Origin, size: f.last.Size}
	switch {
	case f.failed != nil:
		a.status, a.why = http.StatusInternalServerError, "The witness could not keep its last checkpoint and must be restarted."
		return a
	case req.Old != f.last.Size:
		a.status, a.why = http.StatusConflict, fmt.Sprintf("the request begins at %d, the witness is at %d", req.Old, f.last.Size)
		return a
	case req.Old == c.Size && f.last.Size > 0 && f.last.Root != c.Root:
		a.status, a.why = http.StatusConflict, fmt.Sprintf("two different logs of %d entries", c.Size)
		return a
	}
	older := f.last
	if older.Size == 0 {
		older = tlog.Checkpoint{Origin: c.Origin} // an empty log is the beginning of every log
		if c.Size == 0 {
			older.Root = c.Root
		}
	}
	if err := tlog.CheckConsistency(req.Proof, older, c); err != nil {
		a.status, a.why = http.StatusUnprocessableEntity, err.Error()
		return a
	}
	// Only the signatures that were verified are kept: the rest is a stranger's text.
	cosigned, err := note.Sign(&note.Note{Text: n.Text, Sigs: slices.Clone(n.Sigs)}, s.o.Signer)
	if err != nil {
		a.status, a.why = http.StatusInternalServerError, "The witness could not sign."
		return a
	}
	if err := s.o.persist(f.path, cosigned); err != nil {
		f.failed = err
		s.o.Log.Error("witness could not persist a checkpoint", "origin", c.Origin, "error", err)
		a.status, a.why = http.StatusInternalServerError, "The witness could not keep the checkpoint."
		return a
	}
	f.last = c
	a.status, a.signatures = http.StatusOK, lastSignature(cosigned)
	return a
}

// lastSignature cuts out the line that note.Sign added, which comes last.
func lastSignature(signed []byte) []byte {
	lines := strings.SplitAfter(strings.TrimSuffix(string(signed), "\n"), "\n")
	return []byte(strings.TrimSuffix(lines[len(lines)-1], "\n") + "\n")
}

// Serve answers on a listener until ctx ends, then waits for requests under way.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second,
		WriteTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	stopped := make(chan error, 1)
	go func() { stopped <- server.Serve(listener) }()
	select {
	case err := <-stopped:
		return fmt.Errorf("witness: %w", err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := server.Shutdown(patience)
	if serveErr := <-stopped; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
